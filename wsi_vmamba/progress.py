"""How far the slides of a run are and when they will be through: numbers only, what is shown of them is `board`'s."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class News:
    """What whoever encodes a slide has to say: how far it is, or a note in words. Plain values, for any wire.

    Attributes:
        slide_id: the slide.
        regions: of its regions are done.
        n_regions: regions it has; 0 in a note.
        done_px: target pixels of the regions that are done.
        total_px: target pixels of all its regions.
        kept_px: of ``done_px``, what an earlier run had done.
        note: a line for people, in place of the numbers.
    """

    slide_id: str
    regions: int = 0
    n_regions: int = 0
    done_px: int = 0
    total_px: int = 0
    kept_px: int = 0
    note: str = ""


def ignore(news: News) -> None:
    """Take news that nobody wants."""


@dataclass(kw_only=True)
class SlideProgress:
    """A slide that is being worked on.

    Attributes:
        latest: the latest numbers.
        began_s: when the first of them came, by the clock of who asks.
    """

    latest: News
    began_s: float

    def left_s(self, now_s: float) -> float | None:
        """Seconds until it is through, at the pace so far; None before the first region."""
        made_px = self.latest.done_px - self.latest.kept_px
        left_px = self.latest.total_px - self.latest.done_px
        if made_px <= 0:
            return None
        return (now_s - self.began_s) / made_px * left_px


@dataclass(kw_only=True)
class RunProgress:
    """All slides of a run.

    Attributes:
        n_slides: how many there are.
        began_s: when the run began.
        running: those that are being worked on, in the order in which they were begun.
    """

    n_slides: int
    began_s: float
    running: dict[str, SlideProgress] = field(default_factory=dict)
    _through: set[str] = field(default_factory=set)
    _made_px: int = 0
    _whole_px: int = 0
    _whole: int = 0

    def take(self, news: News, now_s: float) -> None:
        """Take in the numbers of a slide; of one that is through they are late, and count for nothing."""
        if news.slide_id in self._through:
            return
        slide = self.running.get(news.slide_id)
        if slide is not None and news.kept_px == slide.latest.kept_px:
            slide.latest = news
            return
        if slide is not None:  # another worker has taken it over, with what was kept
            self._made_px += slide.latest.done_px - slide.latest.kept_px
        self.running[news.slide_id] = SlideProgress(latest=news, began_s=now_s)

    @property
    def finished(self) -> int:
        """Slides that are through, however they ended."""
        return len(self._through)

    def finish(self, slide_id: str) -> None:
        """A slide is through, however it ended."""
        self._through.add(slide_id)
        slide = self.running.pop(slide_id, None)
        if slide is not None:
            self._made_px += slide.latest.done_px - slide.latest.kept_px
            self._whole_px += slide.latest.total_px
            self._whole += 1

    def left_s(self, now_s: float) -> float | None:
        """Seconds until all slides are through, at the pace of all workers together; None where nothing is known.

        Slides that nobody has looked at yet are taken to be as large as those that somebody has.
        """
        made_px, seen_px, left_px = self._made_px, self._whole_px, 0
        for slide in self.running.values():
            made_px += slide.latest.done_px - slide.latest.kept_px
            seen_px += slide.latest.total_px
            left_px += slide.latest.total_px - slide.latest.done_px
        seen = self._whole + len(self.running)
        if made_px <= 0 or not seen:
            return None
        unseen = max(0, self.n_slides - self.finished - len(self.running))
        return (now_s - self.began_s) / made_px * (left_px + unseen * seen_px / seen)


def in_words(seconds: float | None) -> str:
    """A time that is left, as a person would say it."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 90:
        return f"about {seconds:.0f} s left"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"about {minutes} min left"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"about {hours} h {minutes} min left"
    return f"about {hours / 24:.1f} days left"
