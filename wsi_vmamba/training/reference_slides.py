"""The reference of a run from the features of its slides: at the end of training, or later if they are still there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsi_vmamba.bags import Bag
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.store import open_features
from wsi_vmamba.training.model import NUM_CLASSES, SlideClassifier, predict
from wsi_vmamba.training.reference import Reference, SlideFacts, build_reference

LoadBag = Callable[[SlideRecord], Bag]
#: A model, and the split of each slide in its training.
Member = tuple[SlideClassifier, Mapping[str, str]]


def reference_of(
    records: Sequence[SlideRecord], members: Sequence[Member], load_bag: LoadBag, features: Path
) -> Reference:
    """Sum up the slides that models were trained on; of two classes, with the threshold that validation slides choose.

    Of a cross-validation every slide was trained on by some model, and each is scored by the model that was not
    trained on it. The scores are those that `evaluate` computes.

    Args:
        records: of the data set.
        members: the model of the run, or those of all folds.
        load_bag: gives the bag of a record.
        features: folder of the features.
    """
    by_id = {record.slide_id: record for record in records}
    trained = {name for _, splits in members for name in _of_split(splits, "train")}
    slides = [
        _facts_of(slide, load_bag(slide), features)
        for name in sorted(trained)
        if name in by_id
        for slide in by_id[name].slides
    ]
    if members[0][0].spec.num_classes > NUM_CLASSES:
        return build_reference(slides, features=features)
    labels, scores = [], []
    for model, splits in members:
        for name in _of_split(splits, "validation"):
            record = by_id.get(name)
            if record is not None and record.label is not None:
                labels.append(record.label)
                scores.append(predict(model, load_bag(record)).probability)
    return build_reference(slides, features=features, held_out=(labels, scores))


def _of_split(splits: Mapping[str, str], wanted: str) -> Iterable[str]:
    return (name for name, split in splits.items() if split == wanted)


def _facts_of(record: SlideRecord, bag: Bag, features: Path) -> SlideFacts:
    meta = open_features(features / f"{record.slide_id}.zarr").meta
    mean = bag.features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return SlideFacts(slide_id=record.slide_id, meta=meta, mean=mean)
