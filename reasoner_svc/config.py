"""Pure. The reasoner's settings, checked together: every problem is reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from tandem.core.addresses import is_reachable_address, is_wildcard_host, listen_problem
from tandem.core.choices import EVICTION, OTHER_RETRIEVAL, RETRIEVAL
from tandem.core.errors import InvalidInput
from tandem.core.ids import is_valid_id
from tandem.core.tls_files import NO_TLS, TlsFiles

LANES = ("shm", "nccl", "gloo")
MIB = 1024 * 1024
MIN_RAM_BYTES = 65_536
"""Less holds not even a few blocks of the smallest model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonerConfig:
    """Settings of one reasoner process. Raises InvalidInput that names every problem."""

    name: str
    """Under which the orchestrator and its tickets know this process."""
    listen: str = "127.0.0.1:0"
    advertise: str = ""
    """Address that others use; empty: the address it listens on."""
    orchestrator: str = ""
    """Address of the orchestrator, host:port; empty: serve without attaching to one."""
    secret: bytes = field(repr=False)
    """The cluster secret."""

    lanes: tuple[str, ...] = LANES
    """Kinds of lanes that encoders may ask for."""
    gloo_host: str = "127.0.0.1"
    """Address that Gloo lanes listen on; never a wildcard."""

    reflection: bool = False
    """Let tools list the services of this process."""

    model: str = "default"
    revision: str = ""
    """Commit, tag or branch of the hub that the model is loaded at; empty: the newest."""
    load_format: str = "auto"
    dtype: str = ""
    """Empty: float32 on CPUs, the checkpoint's own elsewhere."""
    device: str = "cpu"
    max_pixels: int = 0
    """Pixel budget of a frame, as the encoders have it (it is in the fingerprint); 0: the checkpoint's."""
    threads: int = 0
    """Threads of torch; 0 leaves its own choice."""

    ram_bytes: int = 2048 * MIB
    """Budget of the RAM tier: slabs never pass it."""
    eviction: str = ""
    """Who leaves RAM first; empty: `lru` with a disk tier, `oldest-first` without."""
    data_dir: str = ""
    """Where blocks are kept on disk; empty: nowhere, what leaves RAM is lost."""
    disk_bytes: int = 100 * 1024 * MIB
    """Budget of the disk tier; the oldest blocks leave."""
    stream_disk_bytes: int = 0
    """The same for each stream; 0: no quota."""
    keep_hours: float = 0.0
    """Blocks older than this leave the disk; 0: only the budget counts."""
    fsync_s: float = 1.0
    """Longest time until written blocks are on stable storage; 0: none; negative: when the system likes."""

    view_tokens: int = 0
    """Newest video tokens in view, held on the device per stream; 0: the checkpoint's own, or 32,768."""
    notes_tokens: int = -1
    """Most tokens of a stream's notes in view; 0: none, -1: the checkpoint's own, or 1,024."""
    retrieval: str = "rekv"
    """How older blocks are chosen when a question does not say."""
    other_retrieval: tuple[str, ...] = OTHER_RETRIEVAL
    """Strategies that questions may name beside it."""
    retrieve_blocks: int = -1
    """Most older blocks that come back into view; 0: none; -1: what the checkpoint was made for, or 64."""
    pool_bytes: int = 64 * MIB
    """Device memory for retrieved blocks: allocated once."""
    embedder: str = "auto"
    """What embeds questions for external retrieval, as the encoders have it."""
    embedder_revision: str = ""
    """Of the hub, where the embedder is loaded from there; empty: the newest."""

    max_streams: int = 1024
    max_questions: int = 256
    """Most open questions, running or waiting."""
    max_running: int = 32
    """Most questions that hold device memory at once."""
    max_question_chars: int = 16_384
    """Longer questions are refused before they are tokenised."""
    max_prompt_tokens: int = 2048
    max_answer_tokens: int = 4096
    default_answer_tokens: int = 256
    prefill_chunk: int = 256
    """Most prompt tokens of one question between two tokens of another; also most tokens that open the
    steps of all workers of a question at once."""
    max_workers: int = 8
    """Most workers on one question; each counts as one of `max_running`, which bounds them too."""
    max_thought_tokens: int = 16_384
    """Of all workers of one question."""
    worker_tokens: int = 512
    """Of each worker, when a question does not say."""
    step_tokens: int = 128
    """A worker's step ends here at the latest, when a question does not say; 0: no bound."""
    self_check_tokens: int = 256
    """Of one worker between two self-checks, when a question does not say; 0: none."""
    worker_templates: str = ""
    """File with more prompts for workers; see `reasoner_svc/workers/templates.toml`."""
    worker_template: str = "marks"
    """The template of questions that name none."""
    difficulty_probe: str = ""
    """File with a probe for adaptive thinking (`reasoner_svc/thinking/probe.py`); empty: there is none."""
    head_scores: str = ""
    """File with scores of heads (`reasoner_svc/thinking/head_scores.py`); empty: there are none."""
    outbox_chars: int = 65_536
    """Most characters of one answer that wait for a slow reader."""
    standby: bool = False
    """Load everything, then wait in reserve for a line on standard input; see `tandem.core.lifetime`."""
    drain_s: float = 20.0
    """How long running questions may take to end when the process is asked to stop."""
    metrics: str = ""
    """Where Prometheus finds this process's metrics, host:port; empty: nowhere."""
    health: str = ""
    """Where probes find this process's health in plain text, host:port; empty: nowhere."""
    tls: TlsFiles = NO_TLS
    allow_wildcard: bool = False
    """Start although this process listens on every interface somewhere."""

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise InvalidInput("the reasoner cannot start: " + "; ".join(problems))

    @property
    def tick_tokens(self) -> int:
        """Tokens of one tick: every running question one, and one whole chunk of a prompt beside them."""
        return self.max_running + self.prefill_chunk


def _problems(config: ReasonerConfig) -> list[str]:
    found: list[str] = []
    if not is_valid_id(config.name):
        found.append(f"name {config.name!r} is not 1 to 64 characters of [A-Za-z0-9._-]")
    if len(config.secret) < 16:
        found.append(f"the cluster secret has {len(config.secret)} bytes, at least 16 are needed")
    if config.ram_bytes < MIN_RAM_BYTES:
        found.append(f"ram_bytes is {config.ram_bytes}, at least {MIN_RAM_BYTES} is needed")
    at_least_one = (
        *("max_streams", "max_questions", "max_running", "max_question_chars"),
        *("max_prompt_tokens", "max_answer_tokens", "default_answer_tokens", "prefill_chunk", "outbox_chars"),
        *("max_workers", "max_thought_tokens", "worker_tokens"),
    )
    for name in at_least_one:
        value = getattr(config, name)
        if value < 1:
            found.append(f"{name} is {value}, at least 1 is needed")
    if config.view_tokens < 0:
        found.append(f"view_tokens is {config.view_tokens}")
    if config.notes_tokens < -1:
        found.append(f"notes_tokens is {config.notes_tokens}")
    if config.retrieve_blocks < -1:
        found.append(f"retrieve_blocks is {config.retrieve_blocks}")
    if config.eviction and config.eviction not in EVICTION:
        found.append(f"eviction {config.eviction!r} (known: {', '.join(EVICTION)})")
    wrong = [name for name in (config.retrieval, *config.other_retrieval) if name not in RETRIEVAL]
    if wrong:
        found.append(f"retrieval {', '.join(wrong)} (known: {', '.join(RETRIEVAL)})")
    if config.disk_bytes < MIN_RAM_BYTES or config.pool_bytes < MIN_RAM_BYTES:
        found.append(f"disk_bytes and pool_bytes must be at least {MIN_RAM_BYTES}")
    if config.stream_disk_bytes < 0 or not config.keep_hours >= 0:
        found.append("stream_disk_bytes and keep_hours cannot be negative")
    if config.default_answer_tokens > config.max_answer_tokens:
        found.append(f"default_answer_tokens is above max_answer_tokens ({config.max_answer_tokens})")
    if config.step_tokens < 0 or config.self_check_tokens < 0:
        found.append("step_tokens and self_check_tokens cannot be negative")
    if config.threads < 0:
        found.append(f"threads is {config.threads}")
    if config.max_pixels < 0:
        found.append(f"max_pixels is {config.max_pixels}")
    if unknown := [lane for lane in config.lanes if lane not in LANES]:
        found.append(f"lanes: {', '.join(unknown)} (known: {', '.join(LANES)})")
    if not config.lanes:
        found.append(f"lanes: at least one is needed (known: {', '.join(LANES)})")
    if is_wildcard_host(config.gloo_host):
        found.append(f"gloo_host {config.gloo_host!r} names every interface; name one address")
    if config.advertise and not is_reachable_address(config.advertise):
        found.append(f"advertise: {config.advertise!r} is no host:port that others can connect to")
    for name, value in (("metrics", config.metrics), ("health", config.health)):
        if value and (problem := listen_problem(value)):
            found.append(f"{name}: {problem}")
    found += config.tls.problems()
    if not config.drain_s >= 0:
        found.append(f"drain_s is {config.drain_s}")
    return found
