"""The host's side of a descent: go on until something ends it, in all of its processes."""

import contextlib
import signal
import sys
from collections.abc import Sequence

from gdjax.descent.loop.deciding import Said, answers, decided, numbered, of_signal, signalled
from gdjax.descent.loop.progress import Callback, shown
from gdjax.descent.loop.resuming import Archive
from gdjax.descent.loop.run import Course, Request
from gdjax.descent.loop.signals import REASONS, Heard, heard
from gdjax.descent.peers import attempted
from gdjax.descent.result import Fit
from gdjax.descent.stopping import Ending, Stopped


def descend(request: Request, progress: bool) -> Fit:
    """Descend until something ends it."""
    archive = Archive(request.checkpoint, request.program, request.resume, request.peers)
    with request.peers.losing(lambda: archive.saved):
        course, ending = _ended(request, archive, progress)
        if ending[0] is Stopped.TERMINATED:
            if request.peers.first:
                words = f"{ending[1]} after step {course.step:,}; saved in {archive.folder}, to be resumed"
                with contextlib.suppress(OSError):  # after SIGHUP the terminal is gone
                    print(f"gdjax: {words}", file=sys.stderr, flush=True)
            raise SystemExit(128 + signal.Signals[ending[1]])
        if ending[0] is not Stopped.INTERRUPTED and course.evaluate():  # after it is saved: no resumed history has it
            request.peers.together(lambda: answers(request.callbacks, course.progress))
        return course.result(ending)


def _ended(request: Request, archive: Archive, progress: bool) -> tuple[Course, Ending]:
    """A descent at its end, saved."""
    peers = request.peers
    signals = tuple(REASONS) if request.checkpoint else (signal.SIGINT,)
    with archive, heard(*signals) as sent, shown(progress and peers.first) as show:
        course = Course(request, archive)
        if request.resume:
            show.say(f"resuming from step {course.step:,}" if archive.holds else "no checkpoint yet: starting over")
        try:
            ending = _driven(course, archive, sent, (show.progress, *request.callbacks))
        except BaseException:  # of a callback, an evaluation, a second Ctrl-C
            with contextlib.suppress(Exception):
                if peers.alone or peers.failed:  # else the others are elsewhere
                    course.save()
            raise
        if ending[0] is not Stopped.NONFINITE or not archive.holds:
            course.save()  # else what was saved before it stays the newest: more may come of that
        return course, signalled(peers, sent.number) or ending  # however late


def _driven(course: Course, archive: Archive, sent: Heard, callbacks: Sequence[Callback]) -> Ending:
    peers = course.peers
    while (ending := course.ending()) is None:
        evaluated = course.advance()
        asked, failure = False, None
        if peers.alone:
            asked = answers(callbacks, course.progress)
        else:  # the others are to be told first
            asked, failure = attempted(lambda: answers(callbacks, course.progress))
        due = archive.due(course.step, evaluated, course.metrics, course.waited)
        said = decided(peers, Said(failure is not None, bool(asked), numbered(sent.number), due, course.pace.steps))
        if said.failed:
            peers.end_if_any(failure)
        if (ending := course.ending()) is not None:
            break
        if said.asked:
            return Stopped.CALLBACK, "a callback returned True"
        if by_signal := of_signal(said.signal):
            return by_signal
        course.pace.steps = said.steps
        if said.due:
            course.save()
    return ending
