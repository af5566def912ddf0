from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from wsi_vmamba.config import (
    CheckConfig,
    DemoConfig,
    DownloadConfig,
    EvaluateConfig,
    ExportConfig,
    ExtractConfig,
    FinetuneConfig,
    ProbeConfig,
    RunConfig,
    ShowConfig,
    TrainConfig,
    dump_config,
    resolve_config,
)
from wsi_vmamba.errors import ConfigError, UsageError
from wsi_vmamba.home import expand_home

ROOT = Path(__file__).resolve().parents[2]
KINDS: dict[str, type[RunConfig]] = {
    "extract": ExtractConfig,
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_shipped_file_lists_every_key_with_its_default(kind: str):
    shipped = yaml.safe_load((ROOT / "configs" / f"{kind}.yaml").read_text())
    assert shipped == KINDS[kind]().model_dump(mode="json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_dumped_configuration_reads_back_equal(kind: str, tmp_path: Path):
    change = "seed=7" if "seed" in KINDS[kind].model_fields else "overwrite=true"
    original = resolve_config(KINDS[kind], assignments=[change])
    (tmp_path / "c.yaml").write_text(dump_config(original))
    assert resolve_config(KINDS[kind], file=tmp_path / "c.yaml") == original


def test_precedence_is_file_then_set_then_option(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("patch_px: 64\nregion_px: 640\nseed: 1\n")
    config = resolve_config(
        ExtractConfig, file=file, assignments=["region_px=1280", "seed=2"], options={"seed": 3, "out": None}
    )
    assert (config.patch_px, config.region_px, config.seed, config.out) == (64, 1280, 3, "features")


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("target_mp=0.5", "did you mean 'target_mpp'"),
        ("patch_px=100", "multiple of 32"),
        ("cell_px=64", "'cell_px' is called 'patch_px' now"),
        ("patch_px='256'", "valid integer"),
        ("target_mpp=40", "less than or equal to 4"),
        ("backbone=vmamba_pic0", "did you mean 'vmamba_pico'"),
        ("reader=openslid", "choose from"),
        ("precision=fp16", "unknown precision 'fp16'.*fp32"),
        ("region_px", "key=value"),
        ("region_px=[", "not valid YAML"),
    ],
)
def test_a_bad_assignment_is_refused_by_name(assignment: str, words: str):
    with pytest.raises(ConfigError, match=words):
        resolve_config(ExtractConfig, assignments=[assignment])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1\n", "expected 'key: value'"),
        ("a: [\n", "not valid YAML"),
        ("backbones: x\n", "did you mean 'backbone'"),
        ("? [a, b]\n: 1\n", "line 1: expected 'key: value', the key is no word"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(content: str, words: str, tmp_path: Path):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        resolve_config(ExtractConfig, file=file)
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        resolve_config(ExtractConfig, file=tmp_path / "none.yaml")


def test_dense_supervision_takes_no_aggregator():
    with pytest.raises(ConfigError, match="supervision dense trains no aggregator, got abmil"):
        resolve_config(TrainConfig, assignments=["supervision=dense", "aggregator=abmil"])
    assert resolve_config(TrainConfig, assignments=["supervision=dense"]).aggregator is None


@pytest.fixture(params=["file", "set"])
def resolved(request, tmp_path: Path):
    """Resolve one line ``key: value``, from a file and from ``--set``."""

    def resolve(model: type[RunConfig], line: str) -> RunConfig:
        if request.param == "set":
            return resolve_config(model, assignments=[line.replace(": ", "=", 1)])
        (tmp_path / "c.yaml").write_text(f"{line}\n")
        return resolve_config(model, file=tmp_path / "c.yaml")

    return resolve


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("learning_rate: 1e-4", 1e-4),
        ("learning_rate: 1E-4", 1e-4),
        ("learning_rate: 2.5e-3", 2.5e-3),
        ("learning_rate: +1e-2", 1e-2),
        ("learning_rate: .5", 0.5),
        ("learning_rate: 5.", 5.0),
        ("learning_rate: 1", 1.0),
        ("weight_decay: 1e2", 100.0),
        ("seed: 010", 10),  # eight in YAML 1.1
        ("seed: 0x10", 16),
        ("seed: 0o10", 8),
        ("seed: 1_000", 1000),
        ("class_weights: no", False),
        ("class_weights: True", True),
    ],
)
def test_numbers_are_numbers_however_they_are_written(resolved, line: str, number: float):
    found = getattr(resolved(TrainConfig, line), line.partition(":")[0])
    assert found == number
    assert type(found) is type(number)


@pytest.mark.parametrize(
    "text", ["1e-4", "007", "no", "on", "2024-01-01", "1:30", "12", "0.5", "true", "1_0"]
)
def test_words_where_text_is_wanted_are_text(resolved, text: str, tmp_path: Path):
    named = resolved(TrainConfig, f"name: {text}")
    assert named.name == text
    (tmp_path / "again.yaml").write_text(dump_config(named))
    assert resolve_config(TrainConfig, file=tmp_path / "again.yaml") == named
    assert resolved(EvaluateConfig, f"exclude: [a, {text}]").exclude == ["a", text]
    assert resolved(EvaluateConfig, f"positive: {text}").positive == text


def test_null_stays_null(resolved):
    assert resolved(TrainConfig, "name: null").name is None
    assert resolved(TrainConfig, "name: ~").name is None
    with pytest.raises(
        ConfigError,
        match=r"out: .*which is how YAML reads null, ~ .* the name null is written in quotation marks",
    ):
        resolved(ExtractConfig, "out: ~")


@pytest.mark.parametrize("line", ["learning_rate: .inf", "weight_decay: .nan", "learning_rate: 1e999"])
def test_what_is_not_finite_is_refused(resolved, line: str):
    with pytest.raises(ConfigError, match=r"finite number|greater than"):
        resolved(TrainConfig, line)


@pytest.mark.parametrize("line", ["seed: 1:30", "seed: 2024-01-01", "seed: 1e1", "epochs: 0b11"])
def test_what_is_no_whole_number_is_not_made_one(resolved, line: str):
    with pytest.raises(ConfigError, match="valid integer"):
        resolved(TrainConfig, line)


def test_a_key_that_is_set_twice_is_refused_with_both_lines(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("seed: 1\nepochs: 3\nseed: 2\n")
    with pytest.raises(ConfigError, match=r"line 3: 'seed' is set in line 1 too"):
        resolve_config(TrainConfig, file=tmp_path / "c.yaml")


def test_settings_in_utf_16_are_named_and_a_byte_order_mark_is_no_key(tmp_path: Path):
    (tmp_path / "c.yaml").write_text("seed: 7\n", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"c\.yaml is text in UTF-16; save it in UTF-8"):
        resolve_config(TrainConfig, file=tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("seed: 7\n", encoding="utf-8-sig")
    assert resolve_config(TrainConfig, file=tmp_path / "c.yaml").seed == 7


#: Every key that is text, by configuration: paths, which may begin with a tilde, and the others.
PATHS: dict[type[RunConfig], set[str]] = {
    ExtractConfig: {"slides", "out", "mask", "weights", "scratch"},
    TrainConfig: {"manifest", "features", "runs", "annotations"},
    EvaluateConfig: {
        "run", "runs", "features", "scores", "masks", "annotations", "detections", "compare", "out", "json_out",
        "shuffled_features",
    },
    FinetuneConfig: {"tiles", "weights", "out"},
    DownloadConfig: {"to"},
    CheckConfig: {"folder", "json_out"},
    ExportConfig: {"features", "out", "run"},
    DemoConfig: {"out"},
    ShowConfig: {"features", "slide", "out", "probe"},
    ProbeConfig: {
        "tiles", "groups", "test", "test_groups", "images", "masks", "classes", "out", "save",
    },
}  # fmt: skip
NO_PATHS = {
    "reader", "segmenter", "backbone", "precision", "device", "on_bad_tile", "shard", "scheduler", "dataset", "name",
    "aggregator", "classifier", "supervision", "metric", "split", "score_column", "label_column", "positive", "exclude",
    "endpoint_url", "format", "encoder", "background", "region_px",
}  # fmt: skip


@pytest.mark.parametrize("model", PATHS, ids=lambda model: model.__name__)
def test_a_tilde_at_the_head_of_every_path_is_the_home_folder(
    model: type[RunConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", "/home/somebody")
    text = {key for key, field in model.model_fields.items() if "str" in str(field.annotation)}
    # Names of slides, and of classes.
    others = (
        {"slides"}
        if model in (DownloadConfig, CheckConfig)
        else {"classes"}
        if model is TrainConfig
        else set()
    )
    assert text - PATHS[model] <= NO_PATHS | others
    needed = {"dataset": "camelyon16", "to": "t", "folder": "f", "features": "x"}
    needed = {key: value for key, value in needed.items() if key in model.model_fields}
    for key in PATHS[model]:
        values = ["~/x", "~/y.csv:p"] if key == "compare" else "~/x"
        more = {"score_column": "p"} if key == "scores" else {"masks": "m"} if key == "detections" else {}
        if model is ProbeConfig:
            more = {"test": "t"} if key == "test_groups" else {}
            if key in ("images", "masks", "classes"):
                more = {"images": "i", "masks": "m", "classes": "c"}
        config = resolve_config(model, options={**needed, **more, key: values})
        expected = ["/home/somebody/x", "/home/somebody/y.csv:p"] if key == "compare" else "/home/somebody/x"
        assert getattr(config, key) == expected
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**needed, **more, key: values}))
        assert resolve_config(model, file=tmp_path / "c.yaml") == config


def test_a_tilde_in_a_set_and_at_the_head_of_the_configuration_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("out: ~/features\n")
    config = resolve_config(ExtractConfig, file=Path("~/c.yaml"), assignments=["slides=~/slides"])
    assert (config.out, config.slides) == (f"{tmp_path}/features", f"{tmp_path}/slides")


def test_other_tildes_stay_and_homes_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expand_home("~") == "/home/somebody"
    assert [expand_home(text) for text in ("a~", "./~", "s3://bucket/~x", "")] == [
        "a~",
        "./~",
        "s3://bucket/~x",
        "",
    ]
    assert expand_home("~root/x") == str(Path("~root").expanduser() / "x")
    with pytest.raises(
        UsageError, match=r"~nobody-of-this-name stands for a home folder.*\./~nobody-of-this-name/x"
    ):
        expand_home("~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match=r"out: .*stands for a home folder"):
        resolve_config(ExtractConfig, assignments=["out=~nobody-of-this-name/x"])
