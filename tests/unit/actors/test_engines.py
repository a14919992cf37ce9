"""What `--model` may say, which engine it gets, what vLLM is refused for, and how GPU time is split."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from actors.engines.faults import Key
from actors.engines.names import ModelName, parse_model
from actors.engines.port import Message, NoReply, Sampling
from actors.engines.recorded import RecordedEngine
from actors.engines.settings import EngineSettings, SamplingSettings, VllmSettings, drawn_as
from actors.engines.shares import GpuShares
from actors.engines.shelf import EngineShelf
from actors.engines.vllm import VllmEngine
from actors.engines.vllm_start import refused
from actors.engines.weights import alone_on_card, check_adapter, check_model, wait_for_memory, weights_mib
from orchestrator.errors import EngineDown, EngineMissing, TaskError
from orchestrator.steps import Role
from serve.bootstrap import agents_config, build_agents
from serve.config import load
from serve.secrets import endpoint_key


def shelf(**changes: str) -> EngineShelf:
    return EngineShelf(EngineSettings(), lambda _model: None, **changes)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("recorded:add_story", ModelName(kind="recorded", name="add_story")),
        ("vllm:/models/a:b", ModelName(kind="vllm", name="/models/a:b")),
        ("vllm:Qwen/Qwen3", ModelName(kind="vllm", name="Qwen/Qwen3")),
        (
            "openrouter:qwen/qwen3-coder:free",
            ModelName(
                kind="endpoint",
                name="qwen/qwen3-coder:free",
                url="https://openrouter.ai/api/v1",
                key_variable="OPENROUTER_API_KEY",
                needs_key=True,
            ),
        ),
        (
            "http://[::1]:8000/v1/#org/name",
            ModelName(
                kind="endpoint",
                name="org/name",
                url="http://[::1]:8000/v1",
                key_variable="RAYSMITH_ENDPOINT_KEY",
            ),
        ),
    ],
)
def test_a_model_is_taken_apart(model: str, named: ModelName) -> None:
    assert parse_model(model) == named


@pytest.mark.parametrize("model", ["", "x", "recorded:", "vllm:", "openrouter:", "ftp://a/b#c", "gpt-5"])
def test_a_model_that_no_engine_serves_is_refused_with_what_there_is(model: str) -> None:
    with pytest.raises(EngineMissing) as told:
        parse_model(model)

    assert "openrouter:NAME" in told.value.next_move


@pytest.mark.parametrize(
    "model",
    [
        "http://host/v1",
        "http://host/v1#",
        "http:///v1#m",
        "https://user:hunter2@host/v1#m",
        "https://hunter2@host/v1#m",
        "https://host/v1?key=hunter2#m",
        "http://host:port/v1#m",
        "http://[::1/v1#m",
    ],
)
def test_an_address_without_a_model_or_with_a_secret_is_refused_without_showing_it(model: str) -> None:
    with pytest.raises(TaskError) as told:
        parse_model(model)

    assert "hunter2" not in str(told.value)


async def test_an_engine_is_made_once_and_closed() -> None:
    engines = shelf()

    first = engines("http://127.0.0.1:1/v1#m")

    assert engines("http://127.0.0.1:1/v1#m") is first
    assert first.kind == "openai"
    await engines.close()
    assert engines("http://127.0.0.1:1/v1#m") is not first


def test_replicas_that_hold_a_model_load_no_other() -> None:
    engines = shelf(held="vllm:/a")

    assert engines("vllm:/a").kind == "vllm"
    assert engines("recorded:add_story").kind == "recorded"
    with pytest.raises(EngineMissing, match="hold vllm:/a and have no room for vllm:/b"):
        engines("vllm:/b")


async def test_a_recording_answers_by_role_and_turn() -> None:
    engine = RecordedEngine.parse("x", '{"role": "code", "turn": 1, "reply": "second"}')
    turns = [Message(role="user", content="a"), Message(role="assistant", content="b")]

    assert (await engine.complete("code", turns)).text == "second"
    with pytest.raises(NoReply, match="no reply of role code for turn 0"):
        await engine.complete("code", turns[:1])


async def test_vllm_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.engines.vllm.is_installed", lambda: False)

    with pytest.raises(EngineDown, match="needs vLLM, and it is not installed") as told:
        await VllmEngine("/a").check_health()

    assert "make setup-vllm" in told.value.next_move


def test_a_folder_that_holds_no_model_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(EngineDown, match="there is no folder"):
        check_model(str(tmp_path / "none"))
    with pytest.raises(EngineDown, match=r"has no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineDown, match="no weights"):
        check_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(bytes(2**20))
    (tmp_path / "old.bin").write_bytes(bytes(2**20))

    check_model(str(tmp_path))
    check_model("Qwen/Qwen3-Coder")

    assert weights_mib(tmp_path) == 1


def test_the_model_is_not_named_twice() -> None:
    with pytest.raises(TaskError, match=r"vllm\.args\.model"):
        VllmSettings(args={"model": "x"})


def test_vllms_arguments_pass_through_as_they_are() -> None:
    loaded = load(
        settings=["vllm.args.max_model_len=-1", "vllm.args.kv_cache_dtype=fp8"],
        environ={"RAYSMITH_VLLM__ARGS__SPECULATIVE_CONFIG": "{method: ngram, num_speculative_tokens: 4}"},
    )

    assert loaded.config.vllm.args == {
        "max_model_len": -1,
        "kv_cache_dtype": "fp8",
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 4},
    }


def test_what_is_asked_for_goes_before_what_is_configured() -> None:
    settings = SamplingSettings(temperature=0.2, top_p=None, max_tokens=100)

    assert drawn_as(settings, Sampling()) == {"temperature": 0.2, "max_tokens": 100}
    assert drawn_as(settings, Sampling(temperature=0.0, max_tokens=500, seed=1)) == {
        "temperature": 0.0,
        "max_tokens": 100,
        "seed": 1,
    }
    assert drawn_as(settings, Sampling(max_tokens=0))["max_tokens"] == 1


def test_gpu_time_is_split_among_the_requests_that_run() -> None:
    now = [0.0]
    shares = GpuShares(2.0, lambda: now[0])

    with shares.running() as first:
        now[0] = 4.0
        with shares.running() as second:
            now[0] = 10.0
        now[0] = 11.0
    now[0] = 50.0
    with shares.running() as third:
        now[0] = 51.0

    assert (first.gpu_s, second.gpu_s, third.gpu_s) == (4 * 2 + 6 + 2, 6, 2)


def test_a_key_is_in_the_environment_or_in_a_file_and_shows_nowhere(tmp_path: Path) -> None:
    model = parse_model("openrouter:m")
    file = tmp_path / "key"
    file.write_text("sk-of-file\n")

    from_environment = endpoint_key(model, "", {"OPENROUTER_API_KEY": " sk-of-environment "})
    from_file = endpoint_key(model, str(file), {"OPENROUTER_API_KEY": "sk-of-environment"})

    assert from_environment == Key(secret="sk-of-environment", source="OPENROUTER_API_KEY")
    assert from_file == Key(secret="sk-of-file", source=str(file))
    assert "sk-" not in f"{from_environment!r} {from_file} {[from_file]}"
    assert endpoint_key(model, "", {"OPENAI_API_KEY": "sk"}) is None


@pytest.mark.parametrize("content", [b"two words", b"two\nlines", b"sk-\xc3\xa9", b"\xff\xfe"])
def test_what_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)

    with pytest.raises(EngineDown) as told:
        endpoint_key(parse_model("openrouter:m"), str(file), {})

    assert str(file) in str(told.value) and "two" not in told.value.message
    with pytest.raises(EngineDown, match="cannot be read: No such file"):
        endpoint_key(parse_model("openrouter:m"), str(tmp_path / "none"), {})


async def test_no_key_is_in_what_agents_are_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-secret")
    config = load(environ={"RAYSMITH_ENDPOINT_KEY": "sk-secret", "RAYSMITH_MODEL": "openrouter:m"}).config

    agents = await build_agents([Role.CODE, Role.TEST, Role.REPAIR], agents_config(config))

    assert set(agents) == {"code", "test", "repair"}
    assert "sk-secret" not in str(agents_config(config))
    # One shelf for all of them, so that they share a model that is loaded.
    assert agents["code"]._engines is agents["test"]._engines is agents["repair"]._model._engines


async def test_a_replica_whose_group_holds_an_engine_fails_where_it_cannot_be(tmp_path: Path) -> None:
    config = {**agents_config(load(environ={}).config), "engine": "vllm", "model": f"vllm:{tmp_path}/none"}

    with pytest.raises(EngineDown):
        await build_agents([Role.CODE], config)


def test_memory_of_an_engine_that_ended_is_waited_for() -> None:
    told = iter([(1000.0, 24000.0), (9000.0, 24000.0), (23000.0, 24000.0)])
    waited: list[float] = []

    wait_for_memory({"gpu_memory_utilization": 0.9}, 60.0, lambda: next(told), waited.append)

    assert len(waited) == 2
    with pytest.raises(EngineDown, match="1000 of 24000 MiB of the GPU are free, and vLLM is to take 22080"):
        wait_for_memory({}, 2.0, lambda: (1000.0, 24000.0), waited.append)
    wait_for_memory({}, 0.0, lambda: None)


def test_an_adapter_is_for_a_role_and_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'boss', which is no role"):
        VllmSettings(lora={"boss": "/a"})
    with pytest.raises(EngineDown, match=r"has no adapter_config\.json"):
        check_adapter("test", str(tmp_path))


def test_engines_on_one_card_start_one_after_another_and_on_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    begun, told = threading.Event(), []

    def start(card: str) -> None:
        begun.set()
        with alone_on_card(card):
            told.append(card)

    with alone_on_card("0"):
        second = threading.Thread(target=start, args=("0",))
        second.start()
        begun.wait()
        start("1")
        start("")
        assert told == ["1", ""]
    second.join()

    assert told == ["1", "", "0"]


@pytest.mark.parametrize(
    ("words", "said", "next_move"),
    [
        (
            "ValueError: To serve at least one request with the model's max seq len (131072), (7.00 GiB "
            "KV cache is needed, which is larger than the available KV cache memory (3.21 GiB). Based on the "
            "available memory, the estimated maximum model length is 60096. Try increasing",
            "131072 needs 7.00 GiB of KV cache, and 3.21 GiB are there, enough for 60096 tokens",
            "set vllm.args.max_model_len to 60096",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB. GPU 0 has a total "
            "capacity of 22.03 GiB of which 801.00 MiB is free.",
            "/m does not fit: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.02 GiB.",
            "max_num_seqs",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/22.03 GiB) on startup is less than desired GPU "
            "memory utilization (0.92, 20.27 GiB).",
            "there is no room to start /m: ValueError: Free memory on device cuda:0 (3.1/22.03 GiB)",
            "end what holds the memory",
        ),
        (
            "OSError: We couldn't connect to 'https://huggingface.co' to load the files",
            "/m is in no cache here",
            "hf download /m",
        ),
        ("RuntimeError: something new", "vLLM cannot start /m: RuntimeError: something new", "replica's log"),
    ],
)
def test_why_vllm_does_not_start_is_told_with_the_setting_to_change(
    words: str, said: str, next_move: str
) -> None:
    error = refused("/m", words)

    assert said in error.message
    assert next_move in error.next_move


def test_a_hubs_name_is_looked_for_in_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants", reason="comes with vLLM; make setup-vllm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(EngineDown, match="is not in the cache") as told:
        check_model("Nobody/Nothing-7B")

    assert "hf download Nobody/Nothing-7B" in told.value.next_move
