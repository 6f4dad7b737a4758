"""The proxies, run from the examples that are shipped. Only addresses and times are replaced."""

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from tests.support.api import free_port
from tests.support.poll import until

NAME = "minivault.example"
SILENCE_SECONDS = 2
"""What the examples' time limits are cut down to; pings have to be quicker."""
AT_ONCE = 3
"""What the examples' limit on a client's requests is cut down to."""
_SHIPPED = Path(__file__).parents[2] / "deploy" / "proxy"


class Proxy(ABC):
    """One proxy in front of an API."""

    program: ClassVar[str]
    limits_requests: ClassVar[bool] = True
    """Whether the example limits how many requests a client has open."""

    def __init__(self, api: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._api = urlsplit(api).netloc
        self._folder = folder
        self._log = folder / "proxy.log"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self._command = self._prepare()

    @abstractmethod
    def _prepare(self) -> list[str]:
        """Write the configuration; returns the command that serves it."""

    def _write(self, name: str, changes: Mapping[str, str]) -> Path:
        """Each text to be replaced has to be in the example: else it is not the one shipped."""
        text = (_SHIPPED / name).read_text()
        for old, new in changes.items():
            assert old in text, f"{name} lacks {old!r}"
            text = text.replace(old, new)
        path = self._folder / name
        path.write_text(text)
        return path

    def start(self) -> None:
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=os.environ | {"HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self._is_up, seconds=20, what=f"{self.program}: {self._log.read_text()}")

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            response = httpx.get(f"{self.url}/healthz", headers={"Host": NAME})
        except httpx.TransportError:
            return False
        return response.is_success

    def kill(self) -> None:
        """With all its processes: nginx' workers outlive their master."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait(timeout=10)
            self._process = None


class Nginx(Proxy):
    program = "nginx"

    def _prepare(self) -> list[str]:
        # It would give its workers to somebody who may not look into this folder.
        user = "user root;" if os.geteuid() == 0 else ""
        config = self._write(
            "nginx.conf",
            {
                "worker_processes auto;": f"{user} worker_processes 2; pid {self._folder}/pid;",
                "/var/log/nginx/access.log combined": "off",
                "listen 80": f"listen 127.0.0.1:{self.port}",
                "127.0.0.1:8000": self._api,
                "30s": f"{SILENCE_SECONDS}s",
                "60s": f"{SILENCE_SECONDS}s",
                "clients 100;": f"clients {AT_ONCE};",
            },
        )
        places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        paths = " ".join(f"{place}_temp_path {self._folder}/{place};" for place in places)
        text = config.read_text().replace("http {", f"http {{ {paths}", 1)
        config.write_text(text)
        return [
            self.program,
            "-e",
            "stderr",
            "-p",
            str(self._folder),
            "-c",
            str(config),
            "-g",
            "daemon off;",
        ]


class NginxBuffering(Nginx):
    """As nginx is by default: streams ask for themselves not to be held back."""

    def _write(self, name: str, changes: Mapping[str, str]) -> Path:
        return super()._write(name, {**changes, "proxy_buffering off;": ""})


class Caddy(Proxy):
    program = "caddy"
    limits_requests = False

    def _prepare(self) -> list[str]:
        config = self._write(
            "Caddyfile",
            {
                "{\n\tservers": "{\n\tadmin off\n\tservers",
                f"{NAME} {{": f"http://{NAME}:{self.port} {{\n\tbind 127.0.0.1",
                "127.0.0.1:8000": self._api,
                "30s": f"{SILENCE_SECONDS}s",
            },
        )
        return [self.program, "run", "--config", str(config), "--adapter", "caddyfile"]


class Traefik(Proxy):
    program = "traefik"

    def _prepare(self) -> list[str]:
        routes = self._write(
            "traefik-routes.yml",
            {"127.0.0.1:8000": self._api, "amount: 100": f"amount: {AT_ONCE}"},
        )
        config = self._write(
            "traefik.yml",
            {
                '":80"': f'"127.0.0.1:{self.port}"',
                "/etc/traefik/traefik-routes.yml": str(routes),
                "30s": f"{SILENCE_SECONDS}s",
            },
        )
        return [self.program, f"--configFile={config}"]


KINDS: Mapping[str, tuple[type[Proxy], ...]] = {
    "nginx": (Nginx, NginxBuffering),
    "caddy": (Caddy,),
    "traefik": (Traefik,),
}


def chosen(names: str) -> list[type[Proxy]]:
    """Those that `names` lists, with blanks between.

    Raises:
        ValueError: one is not installed; the message says what to do.
    """
    kinds: list[type[Proxy]] = []
    for name in names.split():
        if name not in KINDS:
            raise ValueError(f"{name} is not among {', '.join(KINDS)}.")
        if shutil.which(name) is None:
            raise ValueError(
                f"{name} is not installed. Install it (docs/proxies.md says how), or choose "
                "others with make test-proxy PROXIES='...'."
            )
        kinds += KINDS[name]
    return kinds
