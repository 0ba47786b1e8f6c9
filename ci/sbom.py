"""Writes what is in a release, an SBOM in CycloneDX's format: files, contents, requirements.

python ci/sbom.py dist/* --output tf_adadelta.cdx.json

Has the hash of each wheel and sdist and of each library in a wheel; what is compiled into these
that comes from elsewhere (pybind11, and NVIDIA's toolkit where there is CUDA code), in the version
that the wheel says it was built with; and what the package requires. The same files give the same
list.
Needs what .ci/locks/release.txt holds.
"""

import argparse
import email.message
import hashlib
import json
import sys
import tarfile
import uuid
import zipfile
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement


def file_component(name: str, content: bytes, parts: list[Component] | None = None) -> Component:
    """Returns a file with its hash, and what is in it."""
    digest = hashlib.sha256(content).hexdigest()
    return Component(
        name=name,
        type=ComponentType.FILE,
        bom_ref=f"{name}@{digest[:12]}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
        components=parts or [],
    )


def compiled_in(info: dict, wheel: str) -> list[Component]:
    """Returns what comes from elsewhere and is part of the libraries of a wheel."""
    parts = [("pybind11", info["pybind11"], "BSD-3-Clause")]
    if info["cuda"]:
        parts.append(("nvidia-cuda-toolkit", info["cuda_toolkit"], None))
    return [
        Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            bom_ref=f"{wheel}:{name}",
            purl=PackageURL("pypi" if license_id else "generic", name=name, version=version),
            licenses=[LicenseExpression(license_id)] if license_id else [],
        )
        for name, version, license_id in parts
    ]


def wheel_component(path: Path) -> tuple[Component, email.message.Message]:
    """Returns a wheel with the libraries in it, and the metadata of the package."""
    with zipfile.ZipFile(path) as wheel:
        names = sorted(wheel.namelist())
        libraries = [name for name in names if name.endswith(".so") or ".so." in name]
        parts = [file_component(name, wheel.read(name)) for name in libraries]
        for part in parts:
            part.bom_ref.value = f"{path.name}:{part.name}"
        info = json.loads(wheel.read("tf_adadelta/_build_info.json"))
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        parts += compiled_in(info, path.name)
        component = file_component(path.name, path.read_bytes(), parts)
        component.properties.add(Property(name="compiler", value=info["compiler"]))
        return component, email.message_from_bytes(wheel.read(metadata))


def sdist_metadata(path: Path) -> email.message.Message:
    """Returns the metadata of an sdist."""
    with tarfile.open(path) as sdist:
        file = sdist.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        return email.message_from_bytes(file.read() if file else b"")


def requirements(metadata: email.message.Message) -> list[Component]:
    """Returns what the package requires, extras as optional."""
    found: dict[str, Component] = {}
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        scope = ComponentScope.OPTIONAL if requirement.marker else ComponentScope.REQUIRED
        known = found.get(requirement.name)
        if known is None or scope is ComponentScope.REQUIRED:
            found[requirement.name] = Component(
                name=requirement.name,
                type=ComponentType.LIBRARY,
                bom_ref=f"requirement:{requirement.name}",
                scope=scope,
                purl=PackageURL("pypi", name=requirement.name.lower()),
                properties=[
                    Property(name="requirement", value=str(requirement.specifier) or "any")
                ],
            )
    return list(found.values())


def make_bom(paths: list[Path]) -> Bom:
    """Returns the list for these files, all of one version."""
    files, metadata = [], None
    for path in sorted(paths):
        if path.suffix == ".whl":
            component, metadata = wheel_component(path)
        elif path.name.endswith(".tar.gz"):
            component, found = file_component(path.name, path.read_bytes()), sdist_metadata(path)
            metadata = metadata or found
        else:
            sys.exit(f"sbom.py: {path} is neither a wheel nor an sdist")
        files.append(component)
    if metadata is None:
        sys.exit("sbom.py: name the files of the release")
    name, version = metadata["Name"], metadata["Version"]
    package = Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}@{version}",
        licenses=[LicenseExpression(metadata["License-Expression"])],
        purl=PackageURL("pypi", name=name.lower().replace("_", "-"), version=version),
    )
    needed = requirements(metadata)
    digests = "".join(file.hashes[0].content for file in files)
    bom = Bom(
        components=[*files, *needed],
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digests),
        metadata=BomMetaData(component=package),
    )
    bom.register_dependency(package, needed)
    return bom


def main() -> None:
    """Writes the list and checks it against the schema."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="the wheels and the sdist of a release")
    parser.add_argument("--output", type=Path, required=True, help="where the list goes")
    arguments = parser.parse_args()
    bom = make_bom(arguments.files)
    written = json.loads(JsonV1Dot6(bom).output_as_string())
    written["metadata"].pop("timestamp", None)
    text = json.dumps(written, indent=2) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        sys.exit(f"sbom.py: the list does not follow its schema: {problem}")
    arguments.output.write_text(text)
    print(f"{arguments.output}: {len(arguments.files)} files")


if __name__ == "__main__":
    main()
