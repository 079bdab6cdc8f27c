"""Transcripts of the callback machine that people can read, and that are run as tests.

A transcript is a text file. A line that begins with `>` is a command, the lines below it are what
the machine asks for. The header (the comment it begins with) names the statements of the mechanism
and the pitfalls that it shows (`# T1: ...`), what the defect was, and what one should see. I1 is
checked after every command.

Commands (V... are vnodes such as `2 4` or `1..5000`; `on VOLUME` is `on 7` if it is left out):

    settings KEY=VALUE ...          a machine with other settings; must come first
    attach HOST...                  a channel is opened; the reset is sent
    up HOST...                      a channel is opened and the reset acknowledged
    close HOST                      the channel ends
    promise HOST V... [on VOLUME] [bulk] [read-only]
    give-up HOST V... [on VOLUME]   and `give-up-all HOST`
    write V... [on VOLUME] [by HOST]
    mark VOLUME                     BreakVolumeCallBacksLater
    break VOLUME                    the handler breaks by itself, as under the other policies
    work                            BreakLaterCallBacks, one slice; `work off`: until it says 0
    ack HOST [#N [channel N]]       the oldest message, or that one
    call HOST [xN]                  a call comes in, or several
    hang-up N                       the caller of call N gives up
    renew HOST                      RenewLease
    advance 2s                      time passes; also min, h
    restart                         the fileserver dies and comes back; its journal knows the hosts
    stop                            the fileserver ends all channels; then it drains
    start [changed VOLUME...]       it saves, and the next life takes over; what changed meanwhile
    resume HOST...                  a channel is opened; the host names the session it holds
    flags, callbacks, marks, waiting, entries, counters NAME...
    measured COMMAND                the same, and how its cost compares to the first such command's

`python -m tests.scenarios.runner --rewrite [FILE...]` puts in what the machine answers now; so does
pytest with SCENARIOS_REWRITE=1 in its environment. Read the difference before you commit it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from pathlib import Path
from types import FrameType
from typing import Any, Final

from afs.types import BreakReason, Fid
from afsd.core.callback_machine import CallBackMachine
from afsd.core.instructions import (
    AnswerRenewal,
    CloseChannel,
    ForgetHost,
    Instruction,
    Observed,
    Outcome,
    Resolve,
    SendBreak,
    SendReset,
    WakeWorker,
)
from afsd.core.settings import CallBackSettings
from afsd.core.volume_promises import VolumePromises
from tests.afsd.core.rig import Rig, fid

FOLDER: Final = Path(__file__).parent
PROMPT: Final = "> "
# More than these are counted, not listed.
_LISTED: Final = 6
_ONE_CALL: Final = re.compile(r"call of (\w+) \d+")
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


class TranscriptError(Exception):
    """A transcript says something that the runner does not understand."""


@dataclass(frozen=True)
class Transcript:
    """One file, line by line."""

    path: Path
    lines: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Transcript:
        """One file."""
        return cls(path, tuple(path.read_text("utf-8").splitlines()))

    @property
    def header(self) -> tuple[str, ...]:
        """What it shows: the comment it begins with, as plain text."""
        lines = takewhile(lambda line: line.startswith("#"), self.lines)
        return tuple(line.removeprefix("#").strip() for line in lines)

    @property
    def shows(self) -> set[str]:
        """The numbers that its header explains: `T1`, `M5`."""
        found: set[str] = set()
        for line in self.header:
            if heads := re.match(r"((?:[MEIRT]\d+b?, )*[MEIRT]\d+b?): ", line):
                found.update(heads[1].split(", "))
        return found

    def text(self) -> str:
        """The whole file."""
        return "".join(f"{line}\n" for line in self.lines)

    def played(self) -> Transcript:
        """The same, with what the machine answers now.

        Raises:
            TranscriptError: a line of it cannot be understood; names the file and the line.
        """
        stage = Stage()
        lines: list[str] = []
        for number, line in enumerate(self.lines, 1):
            if line.startswith(PROMPT):
                lines.append(line)
                try:
                    lines += stage.play(line.removeprefix(PROMPT))
                except (TranscriptError, AssertionError) as problem:
                    where = f"{self.path.name}:{number}: {line}"
                    raise TranscriptError(f"{where}: {problem}") from problem
            elif not line or line.startswith("#"):
                lines.append(line)
        return Transcript(self.path, tuple(lines))


def transcripts() -> list[Transcript]:
    """All transcripts, by name."""
    return [Transcript.read(path) for path in sorted(FOLDER.glob("*.txt"))]


# --- words ----------------------------------------------------------------------------------------


def _fids(words: Sequence[str], volume: int) -> list[Fid]:
    """Vnodes of a volume: `2 4`, `1..5000`."""
    found: list[Fid] = []
    for word in words:
        first, _, last = word.partition("..")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise TranscriptError(f"{word!r} is no vnode")
        found += [fid(vnode, volume) for vnode in range(int(first), int(last or first) + 1)]
    return found


def _listed(fids: Sequence[Fid]) -> str:
    return " ".join(map(str, fids)) if len(fids) <= _LISTED else f"{len(fids)} files"


def _duration(seconds: float) -> str:
    for unit in ("h", "min"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g} {unit}"
    return f"{seconds:g} s"


def _condensed(lines: Sequence[str]) -> list[str]:
    """Many calls of a host to which the same happens, as one line."""
    found: list[str] = []
    for kind, group in groupby(lines, lambda line: _ONE_CALL.sub(r"call of \1", line)):
        same = list(group)
        many = len(same) >= _LISTED and kind != same[0]
        found += [f"{len(same)} x: {kind}"] if many else same
    return found


def _table(*rows: Sequence[str]) -> list[str]:
    """Rows below their heads, in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _option(words: list[str], name: str) -> str | None:
    """Takes `name VALUE` out of the words; None if it is not there."""
    if name not in words:
        return None
    at = words.index(name)
    if at + 1 == len(words):
        raise TranscriptError(f"{name} what?")
    value = words[at + 1]
    del words[at : at + 2]
    return value


def _switch(words: list[str], name: str) -> bool:
    """Takes a word out; False if it is not there."""
    if name not in words:
        return False
    words.remove(name)
    return True


def _steps_of(action: Callable[[], None]) -> int:
    """Lines of the core that an action runs: what it costs, on every machine the same."""
    steps = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        if "/afsd/core/" not in frame.f_code.co_filename:
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


# --- the stage ------------------------------------------------------------------------------------


class Stage(Rig):
    """A machine that is told commands and whose instructions are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._names: dict[int, str] = {}
        self._prefix = ""
        self._played = False
        self._measuring = False
        self._first_costs: dict[str, int] = {}
        self._began = self.now
        self._start(CallBackSettings(), [])

    def _start(self, settings: CallBackSettings, known_hosts: list[str]) -> None:
        self.machine = CallBackMachine(settings, self.now, known_hosts, self.epoch)
        self.machine.deliveries.observing = True

    def play(self, command: str) -> list[str]:
        """Does what one line says; what there is to see."""
        verb, *words = command.split()
        method: Callable[[list[str]], None] | None = getattr(
            self, "do_" + verb.replace("-", "_"), None
        )
        if method is None:
            raise TranscriptError("no such command")
        self.lines = []
        try:
            method(words)
        except (IndexError, KeyError, ValueError) as problem:
            raise TranscriptError(f"not in this form ({problem!r})") from problem
        self._played = True
        return _condensed(self.lines)

    # What the machine asks for.

    def run(self, instructions: list[Instruction]) -> None:
        """Writes them down, and checks the machine (not while its cost is measured)."""
        if self._measuring:
            self._note(instructions)
        else:
            super().run(instructions)

    def _note(self, instructions: list[Instruction]) -> None:
        super()._note(instructions)
        for instruction in instructions:
            line = self._rendered(instruction)
            if line:
                self.lines.append(self._prefix + line)

    def _rendered(self, instruction: Instruction) -> str:
        match instruction:
            case SendReset(channel, sequence, keeps):
                kept = ", kept" if keeps else ""
                return f"to {self._host_of[channel]}: InitCallBackState #{sequence}{kept}"
            case SendBreak(channel, sequence, targets, reason, through):
                return (
                    f"to {self._host_of[channel]}: Break #{sequence} of {_listed(targets)}, "
                    f"{reason.name}, through {through}"
                )
            case AnswerRenewal(channel, number):
                return f"to {self._host_of[channel]}: Probe that answers renewal {number}"
            case CloseChannel(channel):
                return f"close channel {channel} of {self._host_of[channel]}"
            case Resolve(ticket, outcome):
                ends = "may go on" if outcome is Outcome.CLEAR else outcome.name
                return f"{self._names.get(ticket, 'it')}: {ends}"
            case WakeWorker():
                return "wake the worker"
            case ForgetHost(uuid):
                return f"forget {uuid}"
            case Observed(event="host.marked_down", host=host, cause=cause):
                return f"{host} is VENUSDOWN: {cause}"
            case Observed(event="host.suspended", host=host):
                return f"{host} is suspended"
            case Observed():
                return ""

    def _named(self, kind: str, start: Callable[[int], None]) -> None:
        """Somebody begins to wait: names the ticket that it takes."""
        ticket = next(self._tickets)
        self._names[ticket] = f"{kind} {ticket}"
        start(ticket)
        if ticket not in self.outcomes:
            self.lines.append(f"{self._names[ticket]} waits")

    def _host(self, words: Sequence[str]) -> str:
        if len(words) != 1 or words[0] not in self.inbox:
            raise TranscriptError(f"expected a host that has attached, not {' '.join(words)!r}")
        return words[0]

    # Commands.

    def do_settings(self, words: list[str]) -> None:
        """A machine with other settings."""
        if self._played:
            raise TranscriptError("settings come first")
        values: dict[str, Any] = {}
        for word in words:
            key, _, value = word.partition("=")
            number = float(value)
            whole = key.startswith("max_") or key == "strict"
            values[key] = bool(number) if key == "strict" else int(number) if whole else number
        self._start(CallBackSettings(**values), [])

    def do_attach(self, words: list[str]) -> None:
        """Channels are opened."""
        self.attach(*words)

    def do_up(self, words: list[str]) -> None:
        """Channels are opened, and the resets acknowledged."""
        for host in words:
            before = len(self.lines)
            self.attach(host)
            self.ack(host)
            told = f"to {host}: InitCallBackState"
            others = [line for line in self.lines[before:] if not line.startswith(told)]
            self.lines[before:] = [f"{host} is up, channel {self.channel(host)}", *others]

    def do_close(self, words: list[str]) -> None:
        """A channel ends."""
        host = self._host(words)
        self.close(host)
        self.inbox[host].clear()

    def do_promise(self, words: list[str]) -> None:
        """A host is given promises."""
        bulk, read_only = _switch(words, "bulk"), _switch(words, "read-only")
        volume = int(_option(words, "on") or 7)
        host, fids = words[0], _fids(words[1:], volume)
        given: dict[tuple[int, int, bool], list[Fid]] = {}
        refused = []
        for one in fids:
            promise, instructions = self.machine.give_promise(
                host, one, self.now, bulk=bulk, read_only=read_only
            )
            self._note(instructions)
            if promise is None:
                refused.append(one)
            else:
                kind = (promise.lifetime_s, promise.sequence, promise.whole_volume)
                given.setdefault(kind, []).append(one)
        self.machine.check()
        for (lifetime_s, sequence, whole_volume), those in given.items():
            what = f"all of volume {volume}" if whole_volume else _listed(those)
            self.lines.append(
                f"{host} may rely on {what} for {_duration(lifetime_s)}, sequence {sequence}"
            )
        if refused:
            self.lines.append(f"{host} gets no promise on {_listed(refused)}")

    def do_give_up(self, words: list[str]) -> None:
        """A host returns promises."""
        volume = int(_option(words, "on") or 7)
        count = self.machine.give_up(words[0], _fids(words[1:], volume))
        self.machine.check()
        self.lines.append(f"{words[0]} gave up {count}")

    def do_give_up_all(self, words: list[str]) -> None:
        """A host returns all promises."""
        count, instructions = self.machine.give_up_all(self._host(words))
        self.run(instructions)
        self.lines.append(f"{words[0]} gave up {count}")

    def do_write(self, words: list[str]) -> None:
        """Somebody changes vnodes."""
        writer = _option(words, "by")
        volume = int(_option(words, "on") or 7)
        fids = _fids(words, volume)
        changed = [(one, BreakReason.DATA_CHANGED) for one in fids]
        self._named(
            "write",
            lambda ticket: self.run(
                self.machine.break_callbacks(changed, writer, ticket, self.now)
            ),
        )

    def do_mark(self, words: list[str]) -> None:
        """A volume is given back under `later`."""
        marked = self.mark(int(words[0]))
        self.lines.insert(0, f"marked: {marked}")

    def do_break(self, words: list[str]) -> None:
        """A volume is given back, and the FSSYNC handler breaks."""

        def start(ticket: int) -> None:
            self.run(
                self.machine.break_volume_callbacks(
                    int(words[0]), BreakReason.VOLUME_GIVEN_BACK, ticket, self.now
                )[1]
            )

        self._named("give-back", start)

    def do_work(self, words: list[str]) -> None:
        """The worker works."""
        if words == ["off"]:
            calls = self.work_off()
            self.lines.append(f"BreakLaterCallBacks: 1 ({calls} times), then 0")
        else:
            self.lines.append(f"BreakLaterCallBacks: {self.work()}")

    def do_ack(self, words: list[str]) -> None:
        """A host acknowledges."""
        old_channel = _option(words, "channel")
        host = self._host(words[:1])
        numbers = [int(word.removeprefix("#")) for word in words[1:]]
        if not (numbers or self.inbox[host]):
            raise TranscriptError("there is nothing to acknowledge")
        if not numbers:
            self.ack(host)
            return
        channel = int(old_channel) if old_channel else self.channel(host)
        self.inbox[host] = [one for one in self.inbox[host] if one.sequence not in numbers]
        for number in numbers:
            self.run(self.machine.acked(host, channel, number, self.now))

    def do_call(self, words: list[str]) -> None:
        """Calls of a host come in."""
        times = int(words[1].removeprefix("x")) if len(words) > 1 else 1
        for _ in range(times):
            self._named(
                f"call of {words[0]}",
                lambda ticket: self.run(self.machine.call_arrived(words[0], ticket, self.now)),
            )

    def do_hang_up(self, words: list[str]) -> None:
        """A caller gives up."""
        name = self._names.pop(int(words[0]))
        self.machine.call_abandoned(name.split()[2], int(words[0]))
        self.machine.check()

    def do_renew(self, words: list[str]) -> None:
        """A host renews its lease."""
        self.renew(self._host(words))

    def do_advance(self, words: list[str]) -> None:
        """Time passes; the machine is called at each of its deadlines."""
        match = re.fullmatch(r"([\d.]+)(s|min|h)", "".join(words))
        if match is None:
            raise TranscriptError("expected a time such as 2s, 5min, 1h")
        end = self.now + float(match[1]) * _SECONDS[match[2]]
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.advance(max(0.0, due - self.now))
            self._prefix = f"at {round(self.now - self._began, 3):g} s: "
            self.run(self.machine.tick(self.now))
        self._prefix = ""
        self.clock.advance(max(0.0, end - self.now))

    def do_restart(self, _: list[str]) -> None:
        """The fileserver dies, and comes back knowing who may hold promises."""
        self.start(None)
        self.machine.deliveries.observing = True

    def do_stop(self, _: list[str]) -> None:
        """The fileserver stops on purpose: channels end, and what was begun goes on."""
        self.stop()

    def do_start(self, words: list[str]) -> None:
        """What there is to save is saved, and taken over; volumes 7 and 8 are unchanged, or not."""
        changed = [int(word) for word in words[1:]] if _switch(words[:1], "changed") else []
        saved = self.machine.save(self.now)
        hosts = (
            f"{host.uuid} with {sum(len(each.keys) for each in host.promises.values())}"
            for host in saved.hosts
        )
        self.lines.append(f"saved: {', '.join(hosts) or 'nobody'}")
        self.start(None)
        self.machine.deliveries.observing = True
        self.machine.restore(saved, self.now)
        unchanged = [volume for volume in (7, 8) if volume not in changed]
        self.run(self.machine.compare_volumes(unchanged, self.now))

    def do_resume(self, words: list[str]) -> None:
        """Channels are opened, and the hosts say what they hold."""
        self.attach(*words, resume=True)

    # Tables.

    def do_flags(self, _: list[str]) -> None:
        """Hosts, their flags, what they hold and are owed."""
        rows = []
        for uuid, host in sorted(self.machine.hosts.items()):
            rows.append(
                (
                    uuid,
                    str(host.channel or "-"),
                    " ".join(sorted(flag.name or "" for flag in host.flags)) or "-",
                    str(host.session.promises),
                    " ".join(str(mark.target) for mark in host.delayed) or "-",
                    " ".join(f"#{sequence}" for sequence in host.outstanding) or "-",
                )
            )
        heads = ("host", "channel", "flags", "promises", "to be told", "not acknowledged")
        self.lines += _table(heads, *rows) if rows else ["no hosts"]

    def do_callbacks(self, _: list[str]) -> None:
        """Every promise that counts."""
        rows = [
            (str(one), callback.session.host.uuid, "FE_LATER CB_DELAYED" if later else "-")
            for one, callback, later in self.machine.callbacks()
        ]
        self.lines += _table(("fid", "host", "flags"), *sorted(rows)) if rows else ["no callbacks"]

    def do_marks(self, _: list[str]) -> None:
        """The marked volumes, oldest first."""
        rows = [
            (
                str(mark.target),
                str(mark.promises.size),
                str(mark.through),
                " ".join(session.host.uuid for session in mark.untold) or "-",
            )
            for mark in self.machine.later.marked
        ]
        heads = ("volume", "callbacks", "through", "to be told")
        self.lines += _table(heads, *rows) if rows else ["nothing is marked"]

    def do_waiting(self, _: list[str]) -> None:
        """Whoever waits for hosts."""
        waiting = [name for ticket, name in self._names.items() if ticket not in self.outcomes]
        self.lines.append(", ".join(waiting) or "nobody waits")

    def do_entries(self, _: list[str]) -> None:
        """File entries that take memory, whether they count or not."""

        def size(promises: VolumePromises) -> int:
            return sum(len(segment) for segment in promises.segments.values())

        later = self.machine.later
        kept = sum(map(size, self.machine.table.volumes.values()))
        detached = sum(size(mark.promises) for mark in later.marked)
        detached += sum(map(size, later._dismantling))
        self.lines.append(f"file entries in memory: {kept} in the table, {detached} detached")

    def do_counters(self, words: list[str]) -> None:
        """How often things happened."""
        self.lines += [f"{name}: {self.machine.counters[name]}" for name in words]

    def do_measured(self, words: list[str]) -> None:
        """Another command, and what it costs in lines of the core that run."""
        lines: list[str] = []
        self._measuring = True
        steps = _steps_of(lambda: lines.extend(self.play(" ".join(words))))
        self._measuring = False
        self.machine.check()
        first = self._first_costs.setdefault(words[0], steps)
        cost = f"as the first {words[0]}" if steps == first else f"{steps} lines, first {first}"
        self.lines = [*lines, f"cost: {cost}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares transcripts with what the machine answers, or rewrites them; 1 if they differ."""
    parser = argparse.ArgumentParser(description="Plays transcripts of the callback machine.")
    parser.add_argument("--rewrite", action="store_true", help="put in what the machine answers")
    parser.add_argument("files", nargs="*", type=Path, help="default: all")
    options = parser.parse_args(arguments)
    changed = 0
    for path in options.files or sorted(FOLDER.glob("*.txt")):
        played = Transcript.read(path).played().text()
        if played == path.read_text("utf-8"):
            continue
        changed += 1
        if options.rewrite:
            path.write_text(played, "utf-8")
        sys.stdout.write(f"{path.name}: {'rewritten' if options.rewrite else 'differs'}\n")
    return int(changed > 0 and not options.rewrite)


if __name__ == "__main__":
    sys.exit(main())
