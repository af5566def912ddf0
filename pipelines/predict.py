"""Recipe: new slides, or features of slides, to the probabilities and decisions of a trained run."""

from __future__ import annotations

from wsi_vmamba import console
from wsi_vmamba.config import PredictConfig
from wsi_vmamba.prediction.likeness import NOT_CHECKED
from wsi_vmamba.prediction.predictor import Predictor
from wsi_vmamba.prediction.rows import PredictionRow
from wsi_vmamba.prediction.run import PredictionRun, prepare
from wsi_vmamba.text import printable


def run(config: PredictConfig) -> bool:
    """Predict every slide; return whether all have a prediction afterwards."""
    prediction = prepare(config)
    _say_what(prediction)
    try:
        for row in prediction.predict():
            _say_row(row)
    finally:
        # Also after Ctrl-C: what was learned so far is shown.
        if prediction.rows:
            _say_sum(prediction)
    return prediction.ok


def _say_what(prediction: PredictionRun) -> None:
    model, predictor = prediction.predictor.model, prediction.predictor
    models = f"the mean of {len(model.members)} models" if len(model.members) > 1 else "one model"
    console.say(f"{prediction.inputs.in_words()}; {models} of {model.path}; {_how_decided(predictor)}")


def _how_decided(predictor: Predictor) -> str:
    classes = predictor.model.classes
    if predictor.threshold is None:
        return f"{predictor.threshold_source} of {', '.join(classes)}"
    return f"{classes[1]} from {predictor.threshold:.4f} on ({predictor.threshold_source})"


def _say_row(row: PredictionRow) -> None:
    name = printable(row.slide_id)
    if row.failed:
        console.say(f"{name}: {row.outcome} ({row.detail})")
        return
    spread = f" ± {row.probability_sd:.4f}" if row.probability_sd != "" else ""
    unlike = f"; unlike the training slides: {row.unlike_why}" if row.unlike not in {"", NOT_CHECKED} else ""
    console.say(
        f"{name}: {row.decision}, probability {row.probability:.4f}{spread}, {row.patches} patches{unlike}"
    )
    if row.detail:
        console.say(f"{name}: note: {row.detail}")


def _say_sum(prediction: PredictionRun) -> None:
    done = [row for row in prediction.rows if not row.failed]
    classes = prediction.predictor.model.classes
    counts = [(sum(row.decision == name for row in done), name) for name in classes]
    found = (
        f"{counts[1][0]} of them {classes[1]}"
        if len(classes) == 2
        else ", ".join(f"{n} {name}" for n, name in counts)
    )
    unlike = [row for row in done if row.unlike not in {"", NOT_CHECKED}]
    console.say(
        f"{len(done)} of {prediction.n_slides} slides predicted, {found}, {len(unlike)} unlike the "
        f"training slides; {prediction.seconds:.1f} s; {prediction.out}"
    )
    unchecked = next((row.unlike_why for row in done if row.unlike == NOT_CHECKED), "")
    if unchecked:
        console.say(f"note: whether the slides are like the training slides was not checked: {unchecked}")
    if prediction.n_slides > len(prediction.rows):
        console.say(f"{prediction.n_slides - len(prediction.rows)} slides were not finished")
    failures = [(row.slide_id, row.outcome, row.detail, row.remedy) for row in prediction.rows if row.failed]
    if failures:
        console.print_table("Slides without a prediction", ("slide", "outcome", "cause", "remedy"), failures)
