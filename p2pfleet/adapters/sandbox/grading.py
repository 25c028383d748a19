"""From what a sandbox showed of itself to its grade, and to what its owner is told.

Graded is what was seen to hold, whichever layer brought it about:

- *none* if a way out was open, or a child could not be locked down at all;
- *C* if only one lock, the filter of system calls, stands between a model and the files;
- *B* if there is a second one;
- *A* if the children also live in namespaces of their own.

Memory that refuses to become executable by itself (MDWE) and newer versions of Landlock change
nothing about the grade, because the filter forbids the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from p2pfleet.adapters.sandbox.inside.syscalls import MACHINES
from p2pfleet.adapters.sandbox.probe import Findings, Tried
from p2pfleet.core.model.capability import Capability, Grade
from p2pfleet.ports import SandboxProperty, SandboxReport

# Every property that the attempts can disprove, and what it says when it holds.
_PROPERTIES = {
    "files": "opens and sees no file",
    "network": "reaches no network",
    "processes": "starts, signals and inspects no process",
    "descriptors": "uses no descriptor but its channel",
    "memory": "gets no executable, shared or unlimited memory",
    "kernel": "reaches no exotic part of the kernel",
    "privileges": "gains no privilege",
}
_REPORT_IT = "Please report this as a bug, with the output of `p2pfleet doctor --json`."
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


class Denial(msgspec.Struct, frozen=True):
    """What this machine says about user namespaces, for the advice to its owner."""

    wanted: bool = True
    apparmor: bool = False
    sysctl: str = ""
    container: bool = False

    @classmethod
    def on_this_machine(cls, wanted: bool) -> Denial:
        """Look at the settings that are known to forbid namespaces."""
        sysctl = ""
        if _setting("user/max_user_namespaces") == "0":
            sysctl = "user.max_user_namespaces=10000"
        elif _setting("kernel/unprivileged_userns_clone") == "0":
            sysctl = "kernel.unprivileged_userns_clone=1"
        return cls(
            wanted=wanted,
            apparmor=_setting("kernel/apparmor_restrict_unprivileged_userns") == "1",
            sysctl=sysctl,
            container=any(os.path.exists(mark) for mark in _CONTAINER_MARKS),
        )


def grade(findings: Findings, denial: Denial) -> SandboxReport:
    """The report on a sandbox that showed these ``findings``."""
    properties = _properties(findings)
    given, reason, advice = _verdict(findings, denial)
    return SandboxReport(
        capability=Capability(given, findings.numeric_class, findings.onnxruntime),
        properties=tuple(properties),
        reason=reason,
        advice=advice,
    )


def _properties(findings: Findings) -> list[SandboxProperty]:
    properties = [_shown_by(findings.escapes, name, detail) for name, detail in _PROPERTIES.items()]
    properties.append(
        _shown_by(findings.second_lock, "second lock", "the files stay locked without the filter")
    )
    properties.append(
        SandboxProperty("namespaces", _isolated(findings), _told_of_namespaces(findings))
    )
    properties.append(
        SandboxProperty(
            "landlock", findings.landlock > 0,
            f"version {findings.landlock}" if findings.landlock else "this kernel has none",
        )
    )  # fmt: skip
    properties.append(
        SandboxProperty(
            "mdwe", findings.mdwe,
            "memory stays unexecutable" if findings.mdwe else "this kernel does not know it",
        )
    )  # fmt: skip
    numbers = "the probe suite ran" if findings.numeric_class else "the probe suite did not run"
    properties.append(SandboxProperty("numeric class", bool(findings.numeric_class), numbers))
    return properties


def _shown_by(attempts: tuple[Tried, ...], name: str, detail: str) -> SandboxProperty:
    tried = [attempt for attempt in attempts if attempt.prevents == name]
    open_ways = [attempt for attempt in tried if not attempt.blocked]
    if not tried:
        return SandboxProperty(name, False, "not tried")
    if open_ways:
        return SandboxProperty(name, False, _sentence(open_ways))
    return SandboxProperty(name, True, f"{detail} ({len(tried)} attempts blocked)")


def _sentence(open_ways: list[Tried]) -> str:
    return "; ".join(f"{attempt.name}: {attempt.how}" for attempt in open_ways[:3])


def _isolated(findings: Findings) -> bool:
    looked = findings.isolation
    return findings.namespaces and bool(looked) and all(finding.held for finding in looked)


def _told_of_namespaces(findings: Findings) -> str:
    if findings.denied:
        step, reason = (*findings.denied, "", "")[:2]
        return f"{step}: {reason}" if step else reason
    broken = [finding for finding in findings.isolation if not finding.held]
    return "; ".join(
        f"{finding.name}: {finding.detail}" for finding in broken or findings.isolation
    )


def _verdict(findings: Findings, denial: Denial) -> tuple[Grade, str, str]:
    if not findings.seccomp:
        if findings.machine not in MACHINES:
            return (
                "none",
                f"the filter of system calls is not written for this machine ({findings.machine}).",
                f"To volunteer, use a 64-bit system on one of: {', '.join(MACHINES)}.",
            )
        return (
            "none",
            "this system lets no process filter its system calls (seccomp).",
            "Use a kernel with CONFIG_SECCOMP_FILTER; in a container, allow seccomp and prctl.",
        )
    held = {p.name for p in _properties(findings) if p.held}
    missing = [name for name in _PROPERTIES if name not in held]
    if missing:
        open_ways = [attempt for attempt in findings.escapes if not attempt.blocked]
        found = (
            f"the self-test found a way out of the sandbox: {_sentence(open_ways)}."
            if open_ways
            else f"nothing was tried against: {', '.join(missing)}."
        )
        return "none", found, _REPORT_IT
    if findings.namespaces and not _isolated(findings):
        return (
            "none",
            f"the namespaces do not isolate: {_told_of_namespaces(findings) or 'not looked at'}.",
            _REPORT_IT,
        )
    if _isolated(findings) and "second lock" in held:
        return "A", "", ""
    reason, advice = _why_no_namespaces(findings, denial)
    if "second lock" in held:
        return "B", reason, advice
    return (
        "C",
        "only one lock keeps a model from the files of this machine: the kernel has no Landlock, "
        f"and {reason}",
        f"Boot a kernel with Landlock (5.13 or newer, with lsm=landlock), or: {advice}",
    )


def _why_no_namespaces(findings: Findings, denial: Denial) -> tuple[str, str]:
    told = _told_of_namespaces(findings)
    if not denial.wanted:
        return (
            "namespaces are switched off in the configuration.",
            "Switch them on again to raise the grade to A.",
        )
    if denial.sysctl:
        return (
            f"this system forbids user namespaces ({told}).",
            f"Allow them with `sudo sysctl {denial.sysctl}`, then restart the node.",
        )
    if denial.apparmor:
        return (
            f"AppArmor restricts user namespaces of ordinary programs here ({told}).",
            "Allow them with `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give "
            "this Python an AppArmor profile with `userns,`; then restart the node.",
        )
    if denial.container:
        return (
            f"the container denies namespaces ({told}).",
            "Run it with a seccomp profile that allows unshare, mount and pivot_root, and with an "
            "unmasked /proc.",
        )
    return (
        f"this system denies namespaces of one's own ({told}).",
        "Allow unprivileged user namespaces: not in a chroot, nor in a service with "
        "RestrictNamespaces= or without @mount in its SystemCallFilter=.",
    )


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
