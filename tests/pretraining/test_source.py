from __future__ import annotations

from wsi_vmamba.config.pretrain import PretrainConfig
from wsi_vmamba.pretraining.ranks import Ranks
from wsi_vmamba.pretraining.source import slide_views
from wsi_vmamba.pretraining.views import Augmentation, ViewSettings


def test_the_settings_of_the_command_are_those_of_the_views(monkeypatch):
    seen = {}

    def open_views(slides, settings, **others):
        seen.update(settings=settings, **others)

    monkeypatch.setattr("wsi_vmamba.pretraining.source.SlideViews", open_views)
    config = PretrainConfig(out="somewhere", batch=7, seed=3, threads=2, mpp_override=0.4)
    slide_views([], config, Ranks(rank=1, world=2))
    assert seen["settings"] == ViewSettings(batch=7, augmentation=Augmentation())  # the defaults are the same
    assert (seen["seed"], seen["rank"], seen["world"], seen["threads"]) == (3, 1, 2, 2)
    assert (seen["mpp_override"], seen["tissue"], str(seen["cache"])) == (0.4, "otsu", "somewhere/tissue")
    changed = config.changed(
        views=config.views.changed(um_per_px=[0.5, 1.0], n_small=5),
        augmentation=config.augmentation.changed(jpeg_quality=[30, 40]),
    )
    slide_views([], changed, Ranks())
    assert seen["settings"].um_per_px == (0.5, 1.0)
    assert seen["settings"].n_small == 5
    assert seen["settings"].augmentation.jpeg_quality == (30, 40)
