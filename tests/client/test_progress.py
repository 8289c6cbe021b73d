"""What a log is told of a stage is little, and what is new it is told at once."""

from __future__ import annotations

from hypothesis import given, strategies as st

from fedclient.progress import Progress, Sparsely, Stage


@given(st.lists(st.floats(0, 1), max_size=300).map(sorted))
def test_a_stage_has_at_most_a_line_for_each_tenth_and_one_for_its_end(shares: list[float]) -> None:
    told: list[Progress] = []
    tell = Sparsely(told.append, now_s=lambda: 0.0)
    for share in shares:
        tell(Progress(Stage.TRAINING, "digits", 1, share=share))
    assert len(told) <= 11
    assert not shares or (told[0].share == shares[0] and (told[-1].share == 1) == (1 in shares))


def test_a_slow_stage_has_a_line_every_five_seconds() -> None:
    told: list[Progress] = []
    clock = iter(range(100))
    tell = Sparsely(told.append, now_s=lambda: float(next(clock)))
    for step in range(20):
        tell(Progress(Stage.TRAINING, "digits", 1, share=step / 1000))
    assert [progress.share for progress in told] == [0, 0.005, 0.01, 0.015]


def test_what_is_no_share_of_the_same_stage_is_always_told() -> None:
    told: list[Progress] = []
    tell = Sparsely(told.append, now_s=lambda: 0.0)
    steps = [
        Progress(Stage.WAITING, detail="1 s"),
        Progress(Stage.DOWNLOADING, "digits", 1, share=0.5),
        Progress(Stage.TRAINING, "digits", 1, share=0.5),
        Progress(Stage.TRAINING, "digits", 2, share=0.5),
        Progress(Stage.TRAINING, "digits", 2, share=0.0),
        Progress(Stage.FINISHED, "digits", 2, detail="completed"),
        Progress(Stage.FINISHED, "digits", 2, detail="completed"),
    ]
    for step in steps:
        tell(step)
    assert told == steps
