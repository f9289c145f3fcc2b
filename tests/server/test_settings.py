"""Settings: the file, what is given above it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lms_tiers.errors import ConfigError
from lms_tiers.server.settings import make_settings


def test_a_file_is_read_and_what_is_given_stands_above_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('port = 7000\nmax_chunk = "8MiB"\nallow = ["10.0.0.0/8"]\ndevice = "cpu?capacity=1GiB"\n')
    settings = make_settings(str(file), {"port": 7001, "host": None})
    assert (settings.port, settings.host, settings.max_chunk) == (7001, "127.0.0.1", 8 * 2**20)
    assert [str(n) for n in settings.allow] == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prot": 1}, "'port'"),
        ({"port": 70000}, "port"),
        ({"max_chunk": "8"}, "no unit"),
        ({"max_chunk": "3GiB"}, "32 bits"),
        ({"max_chunk": "8MiB", "receive_budget": "4MiB"}, "smaller than max_chunk"),
        ({"tls_cert": "x"}, "belong together"),
        ({"tls_client_ca": "x"}, "needs tls_cert"),
        ({"allow": ["10.0.0.1/8"]}, "allow"),
        ({"min_rate": "0B"}, "min_rate"),
        ({"log_format": "xml"}, "log_format"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_settings(None, given)


@pytest.mark.parametrize("text", ["port = ", "\udcff"])
def test_a_broken_file_is_a_typed_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"server\.toml"):
        make_settings(str(file), {})
    with pytest.raises(ConfigError, match="cannot be read"):
        make_settings(str(tmp_path / "absent.toml"), {})
