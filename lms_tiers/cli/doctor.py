"""`lms-tiers doctor`: what this machine and environment offer, what is wrong with it, and what to mend."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Optional

import typer

from lms_tiers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lms_tiers.device import TierSpec

State = Literal["ok", "note", "fault"]

_PACKAGES: Final = ("torch", "lmdb", "zstandard", "xxhash", "pluggy", "pydantic", "numpy", "pytest", "hypothesis")
_NETWORK_FILE_SYSTEMS: Final = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "lustre", "gpfs", "beegfs"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do where something is not right."""

    subject: str
    state: State
    value: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("doctor")
    def doctor(
        path: Path = typer.Argument(Path(), help="A directory meant for a disk tier."),
        device: Optional[str] = typer.Option(None, help="A device text that this machine is meant for."),
        strict: bool = typer.Option(False, "--strict", help="With --device: what does not fit is a fault."),
        as_json: bool = typer.Option(False, "--json", help="Print JSON instead of a table."),
    ) -> None:
        """Report what to mend on this machine.

        Versions, accelerator, limits, disk and plugins. Exit 1 if something is at fault.
        """
        if strict and device is None:
            raise ConfigError("--strict is for --device: give a device text to compare with this machine.")
        findings = examine(path) + ([] if device is None else _device(device, strict))
        if as_json:
            typer.echo(json.dumps([asdict(f) for f in findings], indent=2))
        else:
            _print(findings)
        if any(f.state == "fault" for f in findings):
            raise typer.Exit(1)


def examine(path: Path) -> list[Finding]:
    """Everything the report says, in its order."""
    return [*_versions(), *_accelerator(), *_memory(), *_limits(), *_disk(path), *_plugins()]


def _versions() -> list[Finding]:
    import importlib.metadata
    import platform

    from lms_tiers import CONTRACT_VERSION, __version__

    found = [
        Finding("lms-tiers", "ok", f"{__version__}, contract {CONTRACT_VERSION}"),
        Finding(
            "python", "ok", f"{platform.python_implementation()} {platform.python_version()}, {platform.platform()}"
        ),
    ]
    for package in _PACKAGES:
        try:
            found.append(Finding(package, "ok", importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            extra = package in ("pytest", "hypothesis")
            advice = (
                'pip install "lms-tiers[conformance]" to run the conformance kit.' if extra else "reinstall lms-tiers."
            )
            found.append(Finding(package, "note" if extra else "fault", "not installed", advice))
    return found


def _accelerator() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        built = f"torch was built for {torch.version.cuda}" if torch.version.cuda else "this torch has no CUDA"
        return [Finding("accelerator", "note", f"none ({built})", "gpu tiers need one; pinned uses ordinary memory.")]
    found = []
    for index in range(torch.cuda.device_count()):
        from lms_tiers.sizes import format_size

        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(Finding(f"gpu:{index}", "ok", f"{name}, {format_size(free)} free of {format_size(total)}"))
    return found


def _memory() -> list[Finding]:
    from lms_tiers.place.machine import Machine
    from lms_tiers.sizes import format_size

    limit = Machine().memory()
    if limit is None:
        return [Finding("memory", "note", "unknown", "compare the capacities of tiers in memory yourself.")]
    return [Finding("memory", "ok", f"{format_size(limit.nbytes)} ({limit.source})")]


def _device(text: str, strict: bool) -> list[Finding]:
    from lms_tiers.device import parse_device
    from lms_tiers.options import StoreOptions
    from lms_tiers.place.fit import media_of, misfits
    from lms_tiers.place.machine import Machine
    from lms_tiers.registry import default_registry, know_secrets

    know_secrets(text)
    device = parse_device(text)
    StoreOptions.parse(device.store or {})
    found = misfits(device, media_of(default_registry().backends.specs()), Machine())
    probed = [finding for tier in device.tiers for finding in _probed(tier)]
    if not found:
        return [Finding("device", "ok", f"fits this machine: {device}"), *probed]
    sentences = (reason.rpartition(": ") for reason in found)
    return [*(Finding("device", "fault" if strict else "note", what, advice) for what, _, advice in sentences), *probed]


def _probed(tier: TierSpec) -> Iterator[Finding]:
    """What the place behind a shared tier is like, asked now."""
    from lms_tiers.errors import LmsTiersError
    from lms_tiers.factory import open_backend
    from lms_tiers.registry import default_registry, load_attribute

    probe = default_registry().backends[tier.name].probe
    if probe is None:
        return
    try:
        with open_backend(tier) as backend:
            for state, value, advice in load_attribute(probe)(backend):
                yield Finding(f"tier {tier.name}", state, value, advice)
    except LmsTiersError as error:
        yield Finding(f"tier {tier.name}", "fault", str(error), "a store opens without it, and keeps trying.")


def _limits() -> list[Finding]:
    import resource

    from lms_tiers.sizes import format_size

    def shown(limit: int) -> str:
        return "unlimited" if limit == resource.RLIM_INFINITY else format_size(limit)

    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    small = locked != resource.RLIM_INFINITY and locked < 2**30
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [
        Finding(
            "locked memory",
            "note" if small else "ok",
            shown(locked),
            "CUDA pins past this limit, other allocators do not: `ulimit -l unlimited`." if small else "",
        ),
        Finding(
            "open files",
            "note" if files < 4096 else "ok",
            str(files),
            "a server with many clients wants more: `ulimit -n 65536`." if files < 4096 else "",
        ),
    ]


def _disk(path: Path) -> list[Finding]:
    import fcntl
    import os
    import shutil
    import tempfile

    from lms_tiers.sizes import format_size

    if path.exists() and not path.is_dir():
        return [Finding(f"disk {path}", "fault", "a file, not a directory", "name the directory for the disk tier.")]
    if not path.is_dir():
        return [Finding(f"disk {path}", "fault", "no such directory", "create it, or name another.")]
    usage = shutil.disk_usage(path)
    kind = _file_system(path)
    network = kind in _NETWORK_FILE_SYSTEMS
    found = [
        Finding(
            f"disk {path}",
            "fault" if network else "ok",
            f"{kind}, {format_size(usage.free)} free of {format_size(usage.total)}",
            "LMDB does not work on network file systems: use a local disk." if network else "",
        )
    ]
    try:
        with tempfile.TemporaryFile(dir=path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(file.fileno())
        found.append(Finding("file locks", "ok", "work"))
    except OSError as error:
        reason = error.strerror or str(error)
        found.append(Finding("file locks", "fault", reason, "the directory must be writable and its file system lock."))
    return found


def _file_system(path: Path) -> str:
    from lms_tiers.place.mounts import mount_of

    found = mount_of(path)
    return "unknown" if found is None else found.kind


def _plugins() -> list[Finding]:
    from lms_tiers.registry import default_registry

    found = []
    for status in default_registry().plugins:
        names = ", ".join(name for kind in status.registers.values() for name in kind)
        label = f"plugin {status.name}"
        if status.state in ("broken", "conflict"):
            advice = "`lms-tiers plugins --traceback` shows where; LMS_TIERS_DISABLE turns it off."
            found.append(Finding(label, "fault", f"{status.distribution}: {status.error}", advice))
        else:
            found.append(Finding(label, "ok", f"{status.distribution} {status.version}, {status.state}: {names}"))
    return found + _contracts()


def _contracts() -> list[Finding]:
    from lms_tiers.interface import CONTRACT_VERSION, Capabilities
    from lms_tiers.registry import default_registry, load_attribute, to_install

    found = []
    for spec in default_registry().backends.specs():
        if lacking := to_install(spec):
            found.append(Finding(f"backend {spec.name}", "note", "not installed", f"{lacking}, to use it."))
            continue
        try:
            factory = load_attribute(spec.factory)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            found.append(Finding(f"backend {spec.name}", "fault", reason, "its factory does not import: reinstall it."))
            continue
        returned = getattr(factory, "__annotations__", {}).get("return")
        module = __import__(factory.__module__, fromlist=["_"]) if hasattr(factory, "__module__") else None
        cls = getattr(module, returned, None) if isinstance(returned, str) else returned
        declared = getattr(cls, "capabilities", None)  # a property where each instance has its own
        if isinstance(declared, Capabilities):
            contract = declared.contract
            same = contract.split(".")[0] == CONTRACT_VERSION.split(".")[0]
            advice = "" if same else f"it was written for another contract than {CONTRACT_VERSION}: upgrade it."
            found.append(Finding(f"backend {spec.name}", "ok" if same else "fault", f"contract {contract}", advice))
        else:
            found.append(Finding(f"backend {spec.name}", "ok", "contract is checked when it is opened"))
    return found


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    colour = {"ok": "green", "note": "yellow", "fault": "red"}
    table = Table("what", "", "found", "what to do", title="lms-tiers doctor")
    for f in findings:
        table.add_row(escape(f.subject), f"[{colour[f.state]}]{f.state}[/]", escape(f.value), escape(f.advice))
    Console().print(table)
