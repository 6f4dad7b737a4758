from pathlib import Path

import pytest

from api.signature import Signer
from shared.errors import SettingsError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_specifications_own_example(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    signer = Signer.read(tmp_path / "secret")
    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("text", ["", "x", "whsec_", "whsec_c2hvcnQ=", "whsec_%%%", SECRET[6:]])
def test_what_is_no_secret(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text(text)
    with pytest.raises(SettingsError, match="MINIVAULT_WEBHOOK_SECRET_FILE"):
        Signer.read(tmp_path / "secret")
