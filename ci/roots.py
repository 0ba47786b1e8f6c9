"""Other distributions as folders: made by debootstrap, entered by chroot, with what pip needs.

Needs Linux, root, debootstrap, and the keyrings of the distributions (on Debian the packages
debian-archive-keyring and ubuntu-archive-keyring).
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# Those that Ubuntu's debootstrap knows and an older one does not are made as jammy is.
UBUNTU = ("jammy", "noble", "resolute")
SCRIPTS = Path("/usr/share/debootstrap/scripts")


class RootError(Exception):
    """A root could not be made, or a command in it failed."""


def make_root(suite: str, folder: Path, log: Path, mirror: str = "") -> None:
    """Makes a minimal root of a distribution, unless it is there.

    Args:
        suite: The name of the release, such as bookworm or jammy.
        folder: Where it goes.
        log: Where debootstrap's output goes.
        mirror: Where its packages come from; by default from where debootstrap takes them.

    Raises:
        RootError: debootstrap failed.
    """
    done = folder / "etc" / "made-by-roots"
    if done.exists():
        return
    if not SCRIPTS.is_dir():
        raise RootError("debootstrap is missing. On Debian and Ubuntu: apt-get install debootstrap")
    family = "jammy" if suite in UBUNTU else "sid"
    script = suite if (SCRIPTS / suite).exists() else family
    components = "main,universe" if suite in UBUNTU else "main"
    command = [
        "debootstrap",
        "--variant=minbase",
        "--force-check-gpg",
        f"--components={components}",
    ]
    with log.open("a") as output:
        made = subprocess.run(
            [*command, suite, str(folder), mirror, script], stdout=output, stderr=output
        )
    if made.returncode != 0:
        raise RootError(f"debootstrap made no {suite}: see {log}")
    subprocess.run(["chroot", str(folder), "apt-get", "clean"], check=True)
    done.touch()


def pip_settings() -> tuple[dict[str, str], dict[Path, str]]:
    """Returns what tells pip of proxies, indexes and certificates, for use in a root.

    Returns:
        Variables, and the files of this machine that they name, each with the path that the
        variables give it: one that no package of a distribution writes to.
    """
    variables, files = {}, {}
    for name, value in os.environ.items():
        if name == "PIP_CERT" or name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            files[Path(value)] = f"/run/settings/{Path(value).name}"
            variables[name] = files[Path(value)]
        elif name.startswith("PIP_") or name.lower().endswith("_proxy"):
            variables[name] = value
    return variables, files


def enter(
    root: Path,
    command: Sequence[str | Path],
    *,
    mounts: Mapping[Path, str] | None = None,
    cwd: str = "/",
    **environment: str,
) -> list[str]:
    """Returns the command that runs a command in a root, with this machine's settings for pip.

    Args:
        root: The root.
        command: What runs in it.
        mounts: Files and folders of this machine, and where the root sees them, read-only.
        cwd: The folder, in the root, to run it in.
        **environment: Variables.
    """
    settings, files = pip_settings()
    lines = ["set -e"]
    for source in ("/proc", "/dev", "/sys"):
        lines.append(f"mount --rbind {source} {shlex.quote(f'{root}{source}')}")
    seen = {Path("/etc/resolv.conf"): "/etc/resolv.conf", **files, **(mounts or {})}
    for source, target in seen.items():
        place = shlex.quote(f"{root}{target}")
        make = "mkdir -p" if source.is_dir() else "install -D /dev/null"
        lines.append(f"test -e {place} || {make} {place}")
        lines.append(f"mount --bind -o ro {shlex.quote(str(source))} {place}")
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        **settings,
        **environment,
    }
    inner = shlex.join(["env", "-i", *(f"{name}={value}" for name, value in variables.items())])
    script = f"cd {shlex.quote(cwd)} && exec {shlex.join(str(part) for part in command)}"
    lines.append(f"exec chroot {shlex.quote(str(root))} {inner} sh -c {shlex.quote(script)}")
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)]
