from pathlib import Path

from ravine.training.progress import Progress, Silent


def test_silent_takes_every_call_and_says_nothing(capsys):
    teller: Progress = Silent()
    teller.begin({"data": "digits"})
    teller.notice("warning", "careful")
    teller.tick({"epoch": 1})
    teller.evaluated({"epoch": 1}, True)
    teller.end({}, Path("runs/1"))
    assert capsys.readouterr() == ("", "")
