"""Manifests, and data that a data set names and the machine lacks."""

import pytest

from wsi_vmamba.datasets.csv import load, read_manifest
from wsi_vmamba.datasets.presence import require_features
from wsi_vmamba.errors import DatasetError, MissingDataError, UsageError
from wsi_vmamba.records import SlideRecord


def _manifest(tmp_path, text):
    path = tmp_path / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_column(tmp_path):
    path = _manifest(
        tmp_path,
        "\ufeffslide_id, path,mpp,label,patient_id,split,annotation,stain\n"
        "a,x/a.svs,0.25,1,p1,train,a.xml,HE\n"
        "\n"
        'b,"y, z/b.svs",,,,,,\n',
    )
    a, b = read_manifest(path, root=tmp_path)
    assert a == SlideRecord(
        slide_id="a", path=tmp_path / "x" / "a.svs", mpp=0.25, label=1, patient_id="p1", split="train",
        annotation=tmp_path / "a.xml", attributes={"stain": "HE"},
    )  # fmt: skip
    assert (b.path, b.mpp, b.label, b.patient_id, b.split) == (
        tmp_path / "y, z" / "b.svs",
        None,
        None,
        "b",
        None,
    )
    assert read_manifest(path, root=None)[0].path is None


def test_an_absolute_path_stays(tmp_path):
    path = _manifest(tmp_path, "slide_id,path\na,/slides/a.svs\n")
    assert str(load(manifest=path)[0].path) == "/slides/a.svs"


def test_the_manifest_s_own_folder_is_the_root_unless_given(tmp_path):
    path = _manifest(tmp_path, "slide_id,path\na,a.svs\n")
    assert load(manifest=path)[0].path == tmp_path / "a.svs"
    assert load(manifest=path, root=tmp_path / "other")[0].path == tmp_path / "other" / "a.svs"


def test_names_as_labels(tmp_path):
    path = _manifest(tmp_path, "slide_id,label\na,tumor\nb,normal\nc,\n")
    assert [record.label for record in load(manifest=path, positive="tumor")] == [1, 0, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label\na,2\n", "line 2: label must be 0 or 1, or empty where unknown, got '2'"),
        ("slide_id,mpp\na,big\n", "line 2: mpp must be a number, got 'big'"),
        ("slide_id,mpp\na,40\n", "line 2: mpp must be micrometres per level-0 pixel in 0.05–4.0, got 40"),
        ("slide_id,mpp\na,nan\n", "line 2: mpp must be"),
        ("slide_id,split\na,valid\n", "a: split must be one of train, validation, test"),
        ("slide_id,label\na,1\na,0\n", "listed more than once: a"),
        ("slide_id,patient_id,split\na,p,train\nb,p,test\n", r"p \(test, train\)"),
        ("slide_id,path\na\n", "line 2: expected 2 cells as in the header, got 1"),
        ("slide|path\na|b\n", r"a header with slide_id .* the columns are 'slide', 'path'"),
        ("slide_id,path,path\na,b,c\n", "columns come twice in the header: path"),
        ("slide_id\n", "lists no slides"),
        ("", "expected a header"),
        ("slide_id,label\n,1\n", "empty"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, text, message):
    with pytest.raises(DatasetError, match=message):
        load(manifest=_manifest(tmp_path, text))


def test_no_manifest_is_a_usage_error_and_a_missing_one_names_the_path(tmp_path):
    with pytest.raises(UsageError, match="--manifest FILE"):
        load()
    with pytest.raises(MissingDataError, match=str(tmp_path / "none.csv")):
        load(manifest=tmp_path / "none.csv")


def test_missing_features_say_which_where_and_what_to_run(tmp_path):
    records = [SlideRecord(slide_id=f"s{number}") for number in range(8)]
    with pytest.raises(MissingDataError) as caught:
        require_features(records, tmp_path / "features", dataset="camelyon16")
    message = str(caught.value)
    assert "8 of 8 slides have no features (s0, s1, s2, s3, s4 and 3 more)" in message
    assert f"in {tmp_path / 'features'}" in message
    assert f"wsi-vmamba extract SLIDES --out {tmp_path / 'features'}" in message
    assert "wsi-vmamba download camelyon16 --to DIR" in message


def test_a_half_written_feature_file_is_missing(tmp_path):
    (tmp_path / ".a.zarr.partial-host-1").mkdir()
    with pytest.raises(MissingDataError, match="1 of 1 slides"):
        require_features([SlideRecord(slide_id="a")], tmp_path, dataset="csv")


def test_a_tilde_in_a_column_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    path = _manifest(
        tmp_path, "slide_id,path,annotation\na,~/a.svs,~/a.xml\nb,b~.svs,~nobody-of-this-name/b.xml\n"
    )
    with pytest.raises(
        DatasetError, match=r"line 3: ~nobody-of-this-name/b\.xml: ~nobody-of-this-name stands for"
    ):
        load(manifest=path)
    a, b = load(manifest=_manifest(tmp_path, "slide_id,path,annotation\na,~/a.svs,~/a.xml\nb,b~.svs,\n"))
    assert (str(a.path), str(a.annotation)) == ("/home/somebody/a.svs", "/home/somebody/a.xml")
    assert b.path == tmp_path / "b~.svs"


def test_flags_say_what_a_record_is_good_for(tmp_path):
    lines = [
        "slide_id,flags",
        "a,",
        "b,partial_annotation",
        "c,no_froc",
        "d,partial_annotation; no_froc",
        "e,other",
    ]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    records = {record.slide_id: record for record in load(manifest=tmp_path / "m.csv")}
    assert [name for name, one in records.items() if not one.outlines_complete] == ["b", "d"]
    assert [name for name, one in records.items() if not one.counts_for_lesions] == ["c", "d"]
