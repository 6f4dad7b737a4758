"""What one client has seen of its stream."""

from dataclasses import dataclass, field
from typing import Any

from tests.chaos.prompts import Request


@dataclass(frozen=True)
class Arrival:
    """A numbered event as it came, whether or not it came before."""

    seq: int
    name: str
    text: str
    at: float
    """Monotonic seconds."""


@dataclass
class Record:
    request: Request
    job_id: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    ending: str = ""
    """Name of the terminal event; "" while there was none."""
    usage: dict[str, int] = field(default_factory=dict)
    """As the terminal event told it."""
    connections: int = 0
    trouble: list[str] = field(default_factory=list)
    """What a client that keeps to the protocol must not meet."""

    def note(self, seq: int, name: str, data: dict[str, Any], at: float) -> None:
        self.arrivals.append(Arrival(seq, name, str(data.get("text", "")), at))
        if name == "queued":
            self.job_id = self.job_id or str(data["id"])
        if name in ("done", "error", "cancelled"):
            self.ending = name
            self.usage = data.get("usage", {})
            if name == "error":
                self.trouble.append(f"ended in error {data.get('code')}: {data.get('message')}")

    @property
    def name(self) -> str:
        return f"stream {self.request.number} ({self.job_id or 'no job'})"

    @property
    def last_seq(self) -> int:
        return self.arrivals[-1].seq if self.arrivals else 0

    @property
    def text(self) -> str:
        """The response as a client that trusts the service puts it together."""
        return "".join(arrival.text for arrival in self.arrivals)

    @property
    def streaming(self) -> bool:
        """Tokens have come, and more may."""
        return not self.ending and any(arrival.name == "token" for arrival in self.arrivals)
