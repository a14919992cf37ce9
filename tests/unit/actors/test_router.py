"""`--model auto`: real endpoints behind the pool, falling back, accounted for and explained."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from openai_stand_in import Act, error, say, stand_in

from actors.engines.breaker import Breaker
from actors.engines.faults import Key
from actors.engines.ledger import Ledger
from actors.engines.port import Message
from actors.engines.providers import ProviderSettings, RoutingSettings
from actors.engines.settings import EndpointSettings, EngineSettings
from actors.engines.shelf import EngineShelf
from orchestrator.errors import BudgetSpent, EngineDown, EngineMissing, PromptTooLong, TaskError
from orchestrator.routing import Rule
from orchestrator.steps import Allowance
from serve.bootstrap import agents_config, build_agents
from serve.config import load
from serve.secrets import endpoint_key

ASK = [Message(role="user", content="write")]
DEAR = {"prompt_usd": 10.0, "completion_usd": 10.0}


def pool(providers: Mapping[str, ProviderSettings], **routing: Any) -> EngineShelf:
    endpoint = EndpointSettings(retries=0, longest_pause_s=0.02)
    settings = EngineSettings(endpoint=endpoint, providers=providers, routing=RoutingSettings(**routing))
    return EngineShelf(settings, lambda model: Key(secret=f"sk-{model.key_variable}", source="here"))


async def test_a_provider_that_is_down_is_passed_over_with_the_reason_and_left_alone() -> None:
    async with stand_in(Act(status=500, body=error("broken"))) as down, stand_in(say("hello")) as well:
        engines = pool(
            {
                "first": ProviderSettings(model="m", base_url=down.url),
                "second": ProviderSettings(model="m", base_url=well.url, **DEAR),
            }
        )
        async with Ledger().kept() as ledger:
            reply = await engines("auto").complete("code", ASK)
            await engines("auto").complete("code", ASK)
        await engines.close()

    assert (reply.text, len(down.requests), len(well.requests)) == ("hello", 1, 2)
    failed, served, after = ledger.calls
    assert (failed.provider, failed.error.split(":")[0]) == ("first", "engine")
    assert served.provider == "second" and "not first: " in served.why and "answered 500" in served.why
    assert "left alone for 30 s" in after.why
    # 36 fresh and 64 cached prompt tokens and 20 of the reply, all at the same price.
    assert served.usage.cost_usd == pytest.approx(120 * 10 / 1e6)


async def test_after_its_rest_one_request_tries_and_the_others_go_elsewhere() -> None:
    async with stand_in(Act(status=500, body=error("broken"))) as down, stand_in(say("hello")) as well:
        engines = pool(
            {
                "first": ProviderSettings(model="m", base_url=down.url),
                "second": ProviderSettings(model="m", base_url=well.url, **DEAR),
            },
            failures=1,
            rest_s=0.3,
        )
        async with Ledger().kept():
            await engines("auto").complete("code", ASK)
            await asyncio.sleep(0.4)
            replies = await asyncio.gather(*(engines("auto").complete("code", ASK) for _ in range(5)))
        await engines.close()

    assert [reply.text for reply in replies] == ["hello"] * 5
    assert (len(down.requests), len(well.requests)) == (2, 6)


async def test_later_attempts_go_to_the_strong_one() -> None:
    async with stand_in(say("cheap")) as cheap, stand_in(say("strong")) as strong:
        engines = pool(
            {
                "cheap": ProviderSettings(model="m", base_url=cheap.url),
                "strong": ProviderSettings(model="m", base_url=strong.url, tags=("strong",), **DEAR),
            }
        )
        said = []
        for attempt in (1, 3):
            async with Ledger(attempt=attempt).kept():
                said.append((await engines("auto").complete("repair", ASK)).text)
        await engines.close()

    assert said == ["cheap", "strong"]


async def test_keys_are_each_providers_own() -> None:
    async with stand_in(say("x")) as one, stand_in(say("y")) as two:
        engines = pool(
            {
                "one": ProviderSettings(model="m", base_url=one.url, key_variable="ONE"),
                "two": ProviderSettings(model="m", base_url=two.url, key_variable="TWO"),
            },
            rules=(Rule(use=("two",), roles=("test",)),),
        )
        await engines("auto").complete("code", ASK)
        await engines("auto").complete("test", ASK)
        await engines.close()

    assert [each["authorization"] for each in (*one.headers, *two.headers)] == [
        "Bearer sk-ONE",
        "Bearer sk-TWO",
    ]


def test_a_providers_key_is_not_the_one_that_endpoints_share(tmp_path: Any) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.write_text("sk-shared")
    own.write_text("sk-own")
    plain = ProviderSettings(model="m", base_url="http://a/v1").parsed
    named = ProviderSettings(model="m", base_url="http://b/v1", key_variable="B").parsed
    filed = ProviderSettings(model="openrouter:m", key_file=str(own)).parsed

    keys = [endpoint_key(each, str(shared), {"B": "sk-b"}) for each in (plain, named, filed)]

    assert [key.secret for key in keys if key] == ["sk-shared", "sk-b", "sk-own"]


async def test_nobody_left_is_told_of_each() -> None:
    async with stand_in(Act(status=401, body=error("bad key"))) as refused:
        engines = pool({"only": ProviderSettings(model="m", base_url=refused.url)})
        with pytest.raises(EngineDown, match=r"no provider can serve code: not only: .*answered 401"):
            await engines("auto").complete("code", ASK)
        with pytest.raises(EngineDown, match="none is called or tagged 'x'"):
            await engines("auto:x").complete("code", ASK)
        await engines.close()


async def test_what_is_left_of_the_budget_is_too_little_for_all() -> None:
    async with stand_in(say("x")) as server:
        engines = pool({"dear": ProviderSettings(model="m", base_url=server.url, roles=("code",), **DEAR)})
        async with Ledger(allowance=Allowance(cost_usd=0.001)).kept():
            # On loopback, so that it counts as local: nothing more is paid than there is already.
            await engines("auto").complete("code", ASK)
            with pytest.raises(BudgetSpent):
                await engines("auto").complete("code", ASK)
        await engines.close()


async def test_a_prompt_too_long_for_one_goes_to_another_and_is_told_when_it_fits_none() -> None:
    small = Act(status=400, body=error("maximum context length is 10 tokens"))
    async with stand_in(small) as first, stand_in(say("x"), small) as second:
        engines = pool(
            {
                "first": ProviderSettings(model="m", base_url=first.url),
                "second": ProviderSettings(model="m", base_url=second.url),
            }
        )
        assert (await engines("auto").complete("code", ASK)).text == "x"
        with pytest.raises(PromptTooLong):
            await engines("auto").complete("code", ASK)
        await engines.close()


async def test_hours_of_a_gpu_are_priced() -> None:
    async with stand_in(say("x")) as server:
        engines = pool({"mine": ProviderSettings(model="m", base_url=server.url, gpu_hour_usd=3600.0)})
        async with Ledger().kept() as ledger:
            reply = await engines("auto").complete("code", ASK)
        await engines.close()

    (call,) = ledger.calls
    assert 0 < call.usage.gpu_s <= call.wall_s
    assert reply.usage.cost_usd == pytest.approx(call.usage.gpu_s)


def test_auto_without_providers_is_refused() -> None:
    with pytest.raises(EngineMissing, match="no `providers` are configured"):
        pool({})("auto")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "names no model"),
        ({"model": "gpt"}, "no engine serves the model 'gpt'"),
        ({"model": "auto"}, "is `auto`"),
        ({"model": "openrouter:m", "roles": ("boss",)}, "'boss', which is no role"),
        ({"model": "m", "base_url": "http://me:hunter2@h/v1"}, "a user, a password or a query"),
        ({"model": "openrouter:m", "key_variable": "sk-hunter2"}, "is not the name of an environment"),
    ],
)
def test_a_provider_that_cannot_be_is_refused_without_showing_secrets(
    given: dict[str, Any], words: str
) -> None:
    with pytest.raises(TaskError, match=words) as told:
        ProviderSettings(**given)

    assert "hunter2" not in str(told.value)


async def test_providers_and_rules_come_from_the_configuration(tmp_path: Any) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: auto\n"
        "providers:\n"
        "  free: {model: 'openrouter:qwen/qwen3-coder:free', tags: [free]}\n"
        "  mine: {base_url: 'http://h:8000/v1', model: m, gpu_hour_usd: 1}\n"
        "routing: {rules: [{roles: [plan], difficulty: hard, use: [mine]}]}\n"
    )
    config = load(file, environ={"RAYSMITH_TESTING": "1"}).config

    agents = await build_agents(["code"], agents_config(config))

    settings = agents["code"]._engines._settings
    assert settings.providers == config.providers and settings.routing == config.routing
    assert config.routing.testing and config.providers["mine"].gpu_hour_usd == 1.0
    with pytest.raises(TaskError, match=r"free.*boss"):
        load(settings=["providers.free={model: 'openrouter:m', boss: 1}"], environ={})


def test_a_breaker_opens_rests_and_lets_one_try() -> None:
    now = [0.0]
    breaker = Breaker(2, 10.0, lambda: now[0])

    breaker.failed()
    assert breaker.enter() == 0
    breaker.failed()
    assert breaker.enter() == 10
    now[0] = 10.0
    assert [breaker.enter(), breaker.enter()] == [0, 10]
    breaker.succeeded()
    assert [breaker.enter(), breaker.enter()] == [0, 0]
