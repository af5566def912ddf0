from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsi_vmamba.annotation import write_asap
from wsi_vmamba.bags import Bag
from wsi_vmamba.errors import AnnotationError, MissingDataError
from wsi_vmamba.records import SlideRecord
from wsi_vmamba.training import PatchTargets
from wsi_vmamba.training.objective import patch_loss

PATCH = 512.0
#: Covers patches (1, 1) and (2, 1) whole, half of (3, 1), an eighth of (1, 2) to (3, 2).
OUTLINE = [(512, 512), (3.5 * 512, 512), (3.5 * 512, 2.125 * 512), (512, 2.125 * 512)]


def bag(slide_id: str = "s") -> Bag:
    places = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2)[::-1]
    return Bag(
        slide_id=slide_id,
        features=np.zeros((20, 3), np.float32),
        coords_l0=np.ascontiguousarray(places * 512),
        patch_l0=PATCH,
    )


def as_map(targets) -> list[list[float]]:
    """Targets by row and column; -1 stands for unknown."""
    found = np.full((4, 5), np.nan)
    for (x, y), target in zip(bag().coords_l0, targets, strict=True):
        found[int(y // 512), int(x // 512)] = target
    return np.nan_to_num(found, nan=-1).tolist()


@pytest.fixture
def folder(tmp_path):
    write_asap(tmp_path / "s.xml", [OUTLINE])
    return tmp_path


def test_the_description_changes_with_what_the_targets_are_made_from(folder):
    targets, tumour = PatchTargets(folder), SlideRecord(slide_id="s", label=1)
    before = targets.describe(tumour)
    assert PatchTargets(folder).describe(tumour) == before
    partial = SlideRecord(slide_id="s", label=1, outlines_complete=False)
    write_asap(folder / "s.xml", [OUTLINE[:3]])
    found = {before, targets.describe(tumour), targets.describe(partial)}
    (folder / "s.xml").unlink()
    assert len({*found, targets.describe(tumour)}) == 4
    assert targets.describe(SlideRecord(slide_id="s", label=0)) == targets.describe(tumour) == "no outlines"


def test_patches_inside_are_tumour_those_outside_are_not_and_the_rim_is_left_out(folder):
    targets = PatchTargets(folder)(SlideRecord(slide_id="s", label=1), bag())
    assert targets.dtype == np.float32
    assert as_map(targets) == [[0] * 5, [0, 1, 1, 1, 0], [0, -1, -1, -1, 0], [0] * 5]


def test_no_negatives_from_slides_that_are_not_outlined_exhaustively(folder):
    record = SlideRecord(slide_id="s", label=1, outlines_complete=False)
    found = as_map(PatchTargets(folder)(record, bag()))
    assert found == [[-1] * 5, [-1, 1, 1, 1, -1], [-1] * 5, [-1] * 5]


def test_normal_slides_are_negative_and_tumour_slides_without_outlines_unknown(folder):
    targets = PatchTargets(folder)
    assert as_map(targets(SlideRecord(slide_id="n", label=0), bag("n"))) == [[0] * 5] * 4
    assert as_map(targets(SlideRecord(slide_id="t", label=1), bag("t"))) == [[-1] * 5] * 4


def rewrite(path, *, groups):
    """Put other groups, one an outline, into a file of `write_asap`."""
    parts = path.read_text().split('PartOfGroup="Tumor"')
    assert len(parts) == len(groups) + 1
    again = parts[0] + "".join(
        f'PartOfGroup="{group}"{part}' for group, part in zip(groups, parts[1:], strict=True)
    )
    path.write_text(again)


#: Patch (0, 3) whole, an eighth of (1, 3).
OTHER = [(0, 3 * 512), (576, 3 * 512), (576, 4 * 512), (0, 4 * 512)]
OUTLINED = [[0] * 5, [0, 1, 1, 1, 0], [0, -1, -1, -1, 0], [0] * 5]


def test_patches_inside_an_outline_that_was_left_out_are_unknown_never_negative(folder):
    record, targets = SlideRecord(slide_id="s", label=1), PatchTargets(folder)
    write_asap(folder / "s.xml", [OUTLINE, OTHER])
    rewrite(folder / "s.xml", groups=["Tumor", "Necrosis"])
    assert as_map(targets(record, bag())) == [*OUTLINED[:3], [-1, -1, 0, 0, 0]]
    (note,) = targets.notes(record, bag())
    assert "group 'Necrosis' is neither tumour nor exclusion; left out" in note


def test_tumour_inside_an_outline_that_was_left_out_stays_tumour(folder):
    write_asap(folder / "s.xml", [OUTLINE, [(0, 0), (2560, 0), (2560, 2048), (0, 2048)]])
    rewrite(folder / "s.xml", groups=["Tumor", "Region"])
    targets = PatchTargets(folder)(SlideRecord(slide_id="s", label=1), bag())
    assert as_map(targets) == [[-1] * 5, [-1, 1, 1, 1, -1], [-1] * 5, [-1] * 5]


def test_a_subgroup_of_tumour_teaches_tumour(folder):
    rewrite(folder / "s.xml", groups=["Macro"])
    text = (folder / "s.xml").read_text()
    assert '<Group Name="Tumor" PartOfGroup="None"' in text
    nested = '<AnnotationGroups><Group Name="Macro" PartOfGroup="Tumor"/>'
    (folder / "s.xml").write_text(text.replace("<AnnotationGroups>", nested))
    record, targets = SlideRecord(slide_id="s", label=1), PatchTargets(folder)
    assert as_map(targets(record, bag())) == OUTLINED
    assert targets.notes(record, bag()) == ()


@pytest.mark.parametrize(
    ("outlines", "said"),
    [
        ([], "no tumour is outlined"),
        ([[(x + 9e5, y) for x, y in OUTLINE]], "no patch lies in its tumour outlines"),
        ([[(x / 512, y / 512) for x, y in OUTLINE]], "no patch lies in its tumour outlines"),
    ],
)
def test_a_tumour_slide_whose_outlines_meet_no_patch_teaches_nothing_and_is_named(folder, outlines, said):
    write_asap(folder / "s.xml", outlines)
    record, targets = SlideRecord(slide_id="s", label=1), PatchTargets(folder)
    read_patches = bag()
    # The patch of the corner was not read, so that outlines shrunk into it meet none.
    kept = read_patches.coords_l0.sum(axis=1) > 0
    read_patches = replace(
        read_patches,
        features=read_patches.features[kept],
        coords_l0=np.ascontiguousarray(read_patches.coords_l0[kept]),
    )
    assert np.isnan(targets(record, read_patches)).all()
    assert said in targets.notes(record, read_patches)[-1]


def test_outlines_of_the_manifest_are_used_without_a_folder(folder):
    record = SlideRecord(slide_id="other", label=1, annotation=folder / "s.xml")
    assert np.nansum(PatchTargets()(record, bag("other"))) == 3
    assert PatchTargets(folder).find(record) is None  # a folder given replaces the manifest's


def test_of_two_outline_files_neither_is_taken(folder):
    (folder / "s.geojson").write_text("[]")
    with pytest.raises(AnnotationError, match=r"s has 2 files of outlines \(s\.xml, s\.geojson\).*keep one"):
        PatchTargets(folder).find(SlideRecord(slide_id="s", label=1))


def test_missing_outlines_are_refused_with_the_place_and_the_remedy(folder):
    records = [SlideRecord(slide_id=name, label=1) for name in ("s", "t")]
    PatchTargets(folder).require(records, every=False)
    with pytest.raises(
        MissingDataError, match=r"1 of 2 tumour slides have no outlines at .*, for example t; .*--annotations"
    ) as e:
        PatchTargets(folder).require(records, every=True)
    assert str(folder) in str(e.value)
    with pytest.raises(MissingDataError, match="1 of 1"):
        PatchTargets(folder).require(records[1:], every=False)


def test_patch_loss_weighs_both_kinds_alike_and_leaves_unknown_patches_out():
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0, 9.0], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.0, 0.0, 0.0, 0.0, math.nan], dtype=torch.float64)
    softplus = [math.log1p(math.exp(x)) for x in (-2.0, -1.0, 0.5, 3.0)]
    expected = 0.5 * softplus[0] + 0.5 * sum(softplus[1:]) / 3
    loss = patch_loss(logits, targets)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    assert logits.grad[4] == 0
    only_negative = patch_loss(logits[1:4].detach(), targets[1:4])
    assert only_negative.item() == pytest.approx(0.5 * sum(softplus[1:]) / 3, rel=1e-12)


def test_a_slide_of_unknown_patches_has_a_loss_of_zero_with_gradients():
    logits = torch.tensor([2.0, -1.0], requires_grad=True)
    loss = patch_loss(logits, torch.full((2,), math.nan))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.tolist() == [0, 0]


def test_outlines_that_a_manifest_names_and_are_not_there_are_refused(folder):
    """One found among several would hide it: the others would teach nothing, without a word."""
    there = SlideRecord(slide_id="s", label=1, annotation=folder / "s.xml")
    lost = SlideRecord(slide_id="t", label=1, annotation=folder / "t.xml", listed_at="m.csv, line 3")
    PatchTargets().require([there], every=False)
    with pytest.raises(MissingDataError, match=rf"1 of 2 files .*{folder / 't.xml'} \(m.csv, line 3\)"):
        PatchTargets().require([there, lost], every=False)
