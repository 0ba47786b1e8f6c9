"""What can be told of a shared library without loading it."""

import platform
import struct
from pathlib import Path

_MACHINES = {62: "x86_64", 183: "aarch64"}


def why_not_loadable(path: Path) -> str | None:
    """Returns what is wrong with a library, None if nothing is.

    Loading one that is cut off can end the process: its pages are there, but not what they hold.

    Args:
        path: An ELF file of 64 bits.
    """
    if not path.exists():
        return "is missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(64)
    if len(header) < 64 or not header.startswith(b"\x7fELF\2\1"):
        return f"is no library: it has {size:,} bytes"
    machine = struct.unpack_from("<H", header, 18)[0]
    if _MACHINES.get(machine) != platform.machine():
        return (
            f"is for {_MACHINES.get(machine, 'another processor')}, and this machine is "
            f"{platform.machine()}"
        )
    # The table of sections is the last thing in the file.
    table = struct.unpack_from("<Q", header, 40)[0]
    entry_size, entries = struct.unpack_from("<HH", header, 58)
    whole = table + entry_size * entries
    if size < whole:
        return f"is cut off: it has {size:,} of {whole:,} bytes"
    return None
