"""The command line: parse, dispatch, exit codes. Imports neither torch nor numpy, so that `--help` is instant.

Exit codes: 0 everything asked for was done; 1 something failed and was named; 2 the call itself was wrong.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from wsi_vmamba import __version__
from wsi_vmamba.errors import FolderGoneError, UsageError, WsiVmambaError, words_of_system
from wsi_vmamba.streams import guard_streams

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="wsi-vmamba",
    help="Read gigapixel pathology slides with a VMamba backbone: features, slide scores, AUC and heatmaps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # markup would swallow "[default: ...]"
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file of settings; an unknown key is an error."),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the configuration; may be repeated."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsi-vmamba {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Hold the options of the program itself."""


@app.command()
def extract(
    slides: Annotated[
        str | None, typer.Argument(help="Folder of slides, one slide, or a CSV (slide_id, path, mpp).")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the feature files [default: features].")] = None,
    reader: Annotated[str | None, typer.Option(help="Read every slide with this reader.")] = None,
    scene: Annotated[
        int | None, typer.Option(help="Which picture of a file that holds several; see `info`.")
    ] = None,
    mpp_override: Annotated[
        float | None, typer.Option(help="Micrometres per level-0 pixel, instead of what the files record.")
    ] = None,
    target_mpp: Annotated[float | None, typer.Option(help="Resolution to read at [default: 0.5].")] = None,
    region_px: Annotated[
        int | None, typer.Option(help="Largest side of a region, read in one pass [default: 10000].")
    ] = None,
    patch_px: Annotated[
        int | None, typer.Option(help="Side of the square of one feature [default: 256].")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            help="Your own tissue masks instead of the segmenter's: a GeoJSON, ASAP XML or picture, or a folder "
            "with <slide_id>.geojson, .xml or .png."
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Name in the backbone table [default: vmamba_pico].")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="'auto' (shipped with the backbone), 'random', or a file.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16 or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto.")] = None,
    memory_limit: Annotated[
        float | None, typer.Option(help="Most GB the process may hold; a region that needs more is refused.")
    ] = None,
    on_bad_tile: Annotated[
        str | None,
        typer.Option(help="fail (the slide) or skip (the patches it touches, recorded) [default: fail]."),
    ] = None,
    overwrite: Annotated[
        bool | None, typer.Option("--overwrite", help="Replace existing feature files.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only the I-th of N parts of the slides, for job arrays."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Share the slides among so many processes on this machine.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Give the slides to a running Dask cluster: tcp://host:8786."),
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Extract features: slides in, one feature file per slide out."""
    options = {
        "slides": slides, "out": out, "reader": reader, "scene": scene, "mpp_override": mpp_override,
        "target_mpp": target_mpp, "region_px": region_px, "patch_px": patch_px, "mask": mask, "backbone": backbone,
        "weights": weights, "precision": precision, "device": device, "memory_limit_gb": memory_limit,
        "on_bad_tile": on_bad_tile, "overwrite": overwrite, "shard": shard, "workers": workers, "scheduler": scheduler,
    }  # fmt: skip
    _run("extract", "ExtractConfig", config, assignments, options)


@app.command()
def train(
    dataset: Annotated[
        str | None, typer.Option(help="Name in the data set table [default: camelyon16].")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="CSV of slides and labels, for --dataset csv.")] = None,
    features: Annotated[str | None, typer.Option(help="Folder of feature files [default: features].")] = None,
    runs: Annotated[str | None, typer.Option(help="Folder that holds the runs [default: runs].")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run [default: <dataset>-<aggregator>].")
    ] = None,
    aggregator: Annotated[
        str | None, typer.Option(help="Name in the aggregator table [default: abmil].")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="Of --dataset csv_features [default: random_forest].")
    ] = None,
    supervision: Annotated[
        str | None, typer.Option(help="Learn from slide labels (slide), outlines (dense) or both.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Folder of outlines [default: the manifest's].")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Cross-validate: one run per fold.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto [default: auto].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Most passes over the training slides.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split and of the training [default: 0].")
    ] = None,
    resume: Annotated[
        bool | None, typer.Option("--resume", help="Go on from the run's last checkpoint.")
    ] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace an existing run.")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Train a slide classifier on extracted features."""
    options = {
        "dataset": dataset, "manifest": manifest, "features": features, "runs": runs, "name": name,
        "aggregator": aggregator, "classifier": classifier, "supervision": supervision, "annotations": annotations,
        "folds": folds, "device": device, "epochs": epochs, "seed": seed, "resume": resume, "overwrite": overwrite,
    }  # fmt: skip
    _run("train", "TrainConfig", config, assignments, options)


@app.command()
def finetune(
    tiles: Annotated[
        str | None,
        typer.Argument(help="Folder with train/<class>/ and validation/<class>/ [default: tiles]."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="A VMamba of the table [default: vmamba_pico].")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Where to start: auto, random or a file [default: auto].")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the weights [default: finetuned].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training tiles [default: 10].")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the head [default: 0.0003].")] = None,
    layer_decay: Annotated[
        float | None, typer.Option(help="Factor on the learning rate per block downwards [default: 0.75].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto [default: auto].")] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace existing weights.")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Fine-tune a backbone on labelled tiles; the weights are for extract --weights."""
    options = {
        "tiles": tiles, "backbone": backbone, "weights": weights, "out": out, "epochs": epochs,
        "learning_rate": learning_rate, "layer_decay": layer_decay, "device": device, "overwrite": overwrite,
    }  # fmt: skip
    _run("finetune", "FinetuneConfig", config, assignments, options)


@app.command()
def evaluate(
    metric: Annotated[
        str | None, typer.Option(help="auc or another slide metric, froc, or all [default: auc].")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Folder of the run [default: the newest under runs/].")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Folder of feature files [default: the run's].")
    ] = None,
    split: Annotated[str | None, typer.Option(help="test, validation or train [default: test].")] = None,
    scores: Annotated[str | None, typer.Option(help="CSV of slide scores, in place of a run.")] = None,
    score_column: Annotated[
        str | None, typer.Option(help="Column of --scores that holds the scores.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Column of --scores that holds the labels [default: label].")
    ] = None,
    positive: Annotated[
        str | None, typer.Option(help="Name of the positive class where labels are names.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Call slides from this score on [default: chosen on validation].")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Folder of level-5 tumour masks (PNG or TIFF), for FROC.")
    ] = None,
    annotations: Annotated[
        str | None, typer.Option(help="Folder of outlines (ASAP XML, GeoJSON), in place of --masks.")
    ] = None,
    detections: Annotated[
        str | None, typer.Option(help="Folder of <slide>.csv (probability,x,y), in place of a run.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this slide out of FROC; may be repeated.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Paired DeLong test of two runs, score CSVs, or --scores columns."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for tables and figures [default of a run: <run>/evaluation].")
    ] = None,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the metrics as JSON to this file.")
    ] = None,
    heatmaps: Annotated[
        int | None, typer.Option(help="How many attention heatmaps to draw [default: 0].")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Evaluate a trained run on its held-out slides, or scores and detections made elsewhere."""
    options = {
        "metric": metric, "run": run, "features": features, "split": split, "scores": scores,
        "score_column": score_column, "label_column": label_column, "positive": positive, "threshold": threshold,
        "masks": masks, "annotations": annotations, "detections": detections, "exclude": exclude or None,
        "compare": list(compare) if compare else None, "out": out, "json_out": json_out, "heatmaps": heatmaps,
    }  # fmt: skip
    _run("evaluate", "EvaluateConfig", config, assignments, options)


@app.command()
def export(
    features: Annotated[
        str | None, typer.Argument(help="Folder of feature files, or one of them [default: features].")
    ] = None,
    format: Annotated[
        str | None, typer.Option(help="trident, clam, stamp, anndata or geojson [default: trident].")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder for the files [default: export/<format>].")] = None,
    run: Annotated[
        str | None, typer.Option(help="Add the probability and attention of this trained run.")
    ] = None,
    overwrite: Annotated[bool | None, typer.Option("--overwrite", help="Replace existing files.")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Export features to the layout of another tool: TRIDENT, CLAM, STAMP, AnnData, QuPath GeoJSON."""
    options = {"features": features, "format": format, "out": out, "run": run, "overwrite": overwrite}
    _run("export", "ExportConfig", config, assignments, options)


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="Name of a public data set: camelyon16.")],
    to: Annotated[str, typer.Option(help="Folder for the files; what is there already is kept.")],
    slides: Annotated[
        list[str] | None, typer.Option(help="Only these slides or patterns (a,b or test_*); may be repeated.")
    ] = None,
    annotations: Annotated[bool, typer.Option(help="Fetch the outlines of lesions too.")] = True,
    workers: Annotated[int | None, typer.Option(help="Files fetched at the same time [default: 4].")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(help="Another S3 server that holds the bucket [default: Amazon's].")
    ] = None,
) -> None:
    """Download a public data set; an interrupted download goes on where it stopped."""
    options = {
        "dataset": dataset, "to": to, "slides": slides or None, "annotations": annotations, "workers": workers,
        "endpoint_url": endpoint_url,
    }  # fmt: skip
    _run("download", "DownloadConfig", None, None, options)


@app.command()
def check(
    dataset: Annotated[str, typer.Argument(help="Name of a public data set: camelyon16.")],
    folder: Annotated[str, typer.Argument(help="Folder with its files, as `download` lays them out.")],
    slides: Annotated[
        list[str] | None, typer.Option(help="Only these slides or patterns (a,b or test_*); may be repeated.")
    ] = None,
    checksums: Annotated[bool, typer.Option("--checksums", help="Hash every file; takes hours.")] = False,
    json_out: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON to this file.")
    ] = None,
) -> None:
    """Report missing, extra and damaged files of a public data set."""
    options = {
        "dataset": dataset, "folder": folder, "slides": slides or None, "checksums": checksums, "json_out": json_out,
    }  # fmt: skip
    _run("check", "CheckConfig", None, None, options)


@app.command()
def demo(
    out: Annotated[
        str | None, typer.Option(help="Folder for everything the demo makes [default: demo].")
    ] = None,
    slides: Annotated[int | None, typer.Option(help="How many slides to generate [default: 24].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the cohort [default: 0].")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """See the whole product work on a generated cohort, on the CPU, in minutes."""
    _run("demo", "DemoConfig", config, assignments, {"out": out, "slides": slides, "seed": seed})


@app.command()
def info(
    slide: Annotated[str, typer.Argument(help="A slide file.")],
    reader: Annotated[str | None, typer.Option(help="Read it with this reader.")] = None,
    scene: Annotated[int | None, typer.Option(help="Which picture of a file that holds several.")] = None,
    mpp_override: Annotated[float | None, typer.Option(help="Micrometres per level-0 pixel.")] = None,
    target_mpp: Annotated[float | None, typer.Option(help="Resolution to plan for [default: 0.5].")] = None,
    region_px: Annotated[int | None, typer.Option(help="Largest side of a region [default: 10000].")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Describe a slide: format, size, levels, mpp, tissue share and planned regions."""
    options = {
        "slides": slide, "reader": reader, "scene": scene, "mpp_override": mpp_override, "target_mpp": target_mpp,
        "region_px": region_px,
    }  # fmt: skip
    _run("info", "ExtractConfig", config, assignments, options)


@app.command()
def show(
    features: Annotated[str, typer.Argument(help="A feature file, as `extract` writes it.")],
    slide: Annotated[
        str | None, typer.Option(help="The slide [default: where the feature file says it lay].")
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for the picture [default: beside the feature file].")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Describe a feature file and draw its principal components over the slide."""
    _run("show", "ShowConfig", config, assignments, {"features": features, "slide": slide, "out": out})


@app.command()
def doctor() -> None:
    """Check the installation: versions, CPU features, the active kernel and why, GPU, optional extras."""
    _require_current_folder()
    from wsi_vmamba.pipelines import doctor as recipe

    raise typer.Exit(0 if recipe.run() else EXIT_FAILED)


def _run(
    command: str, model: str, file: Path | None, assignments: list[str] | None, options: dict[str, Any]
) -> None:
    """Resolve the configuration, run the recipe of that name and exit with its code."""
    from importlib import import_module

    _require_current_folder()
    from wsi_vmamba import config as configs

    resolved = configs.resolve_config(
        getattr(configs, model), file=file, assignments=assignments or (), options=options
    )
    # What a job scheduler sends before it kills; ending as for Ctrl-C keeps the table and gives slides free.
    signal.signal(signal.SIGTERM, _interrupt)
    # A terminal that is closed, an ssh connection that breaks; nohup has us ignore it.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        done = import_module(f"wsi_vmamba.pipelines.{command}").run(resolved)
        # Recipes say whether everything was done; some still return an exit code.
        code = done if type(done) is int else 0 if done else EXIT_FAILED
    except KeyboardInterrupt:
        typer.echo("interrupted; what is finished is kept, run the same command again to go on", err=True)
        code = EXIT_INTERRUPTED
    raise typer.Exit(code)


def _require_current_folder() -> None:
    """Refuse to start in a folder that is gone; libraries would only say what they cannot load.

    Raises:
        FolderGoneError: it is.
    """
    try:
        Path.cwd()
    except OSError as error:
        raise FolderGoneError(
            f"the current folder cannot be found ({error.strerror}); it was removed, moved or replaced. Change to one "
            'that is there; to the new one of the same name with cd "$PWD"'
        ) from error


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: run the command, turn errors into one clear line and an exit code."""
    # It prints what it finds odd in a file; what matters of that, our own errors say with the slide's name.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    guard_streams()
    try:
        app()
    except UsageError as error:
        _fail(error, EXIT_USAGE)
    except WsiVmambaError as error:
        _fail(error, EXIT_FAILED)
    except (OSError, UnicodeEncodeError) as error:
        words = words_of_system(error)
        if words is None:
            raise
        _fail(words, EXIT_FAILED)


def _fail(error: WsiVmambaError | str, code: int) -> None:
    typer.echo(f"error: {error}", err=True)
    sys.exit(code)
