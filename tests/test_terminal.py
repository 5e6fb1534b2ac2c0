import os
import sys

from jaxcodec.terminal import say_at_once


class Writing:
    """Standard error in the middle of a line, when a signal comes."""

    def __init__(self, descriptor):
        self.fileno = lambda: descriptor

    def write(self, text):
        raise RuntimeError("reentrant call")


def test_a_handler_of_signals_may_speak_while_a_line_is_written(monkeypatch):
    there, here = os.pipe()
    monkeypatch.setattr(sys, "stderr", Writing(here))
    say_at_once("stopping")
    os.close(here)
    with os.fdopen(there) as said:
        assert said.read() == "stopping\n"


def test_a_handler_speaks_where_standard_error_is_no_file(capsys):
    say_at_once("stopping")
    assert capsys.readouterr().err == "stopping\n"
