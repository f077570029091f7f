"""What MuJoCo warns of is told once."""

from __future__ import annotations

from pathlib import Path

import mujoco
import pytest

from holdfast.envs.base import mujoco_log
from holdfast.envs.base.loading import build


def test_a_warning_is_told_once_and_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One for two models of the same file; one for two instabilities that differ in time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mujoco_log, "_told", set())
    mujoco.set_mju_user_warning(None)
    (tmp_path / "box.xml").write_text(
        "<mujoco><compiler settotalmass='1'/><worldbody><body><freejoint/>"
        "<geom size='.1'/></body></worldbody></mujoco>"
    )
    build("HalfCheetah-v5", {}).close()
    build("HalfCheetah-v5", {}).close()
    mujoco.MjModel.from_xml_path(str(tmp_path / "box.xml"))
    (told,) = caplog.messages
    assert told.startswith("MuJoCo: compiler attribute 'settotalmass' is deprecated")
    caplog.clear()
    for time in ("0.5", "1.25"):
        mujoco_log._tell(f"Nan, Inf or huge value in QACC at DOF 0. Time = {time}.")
    assert caplog.messages == ["MuJoCo: Nan, Inf or huge value in QACC at DOF 0. Time = 0.5."]
    assert [file.name for file in tmp_path.iterdir()] == ["box.xml"]


def test_a_handler_of_the_user_stays() -> None:
    seen: list[str] = []
    mujoco.set_mju_user_warning(seen.append)
    try:
        build("HalfCheetah-v5", {}).close()
        assert len(seen) == 1
    finally:
        mujoco.set_mju_user_warning(None)
