"""A site-packages folder that small wheels are unpacked into, and checks that are run on it."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

from depot import NO_GPU, make_probe, make_wheel
from grpoenv._data import data_paths
from grpoenv.checks import Finding, Use
from grpoenv.gpu import Gpu
from grpoenv.matrix import Matrix
from grpoenv.probe import Probe
from grpoenv.verify import verify


class Site:
    """A site-packages folder that packages are unpacked into."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "site-packages"
        self.folder.mkdir()
        self._wheels = folder

    def put(self, name: str, version: str, **options: object) -> Site:
        wheel = make_wheel(self._wheels, name, version, **options)  # type: ignore[arg-type]
        with zipfile.ZipFile(wheel) as file:
            file.extractall(self.folder)
        return self

    def probe(self, gpu: Gpu = NO_GPU, **changes: object) -> Probe:
        probe = make_probe(gpu=gpu, **changes)
        interpreter = replace(
            probe.interpreter,
            purelib=str(self.folder),
            platlib=str(self.folder),
            site_folders=(str(self.folder),),
        )
        return replace(probe, interpreter=interpreter)

    def findings(self, check: str, gpu: Gpu = NO_GPU, use: Use | None = None) -> list[Finding]:
        """Return what the check of that name finds here."""
        return self.findings_for(self.probe(gpu), check, use)

    def findings_for(self, probe: Probe, check: str, use: Use | None = None) -> list[Finding]:
        """Return what the check of that name finds here for ``probe``."""
        use = use or Use(variables={})
        verdict = verify(probe, Matrix(Path("none")), data_paths(), use=use)
        return [finding for finding in verdict.findings if finding.check == check]
