"""What GET /add promises."""

from app import app
from fastapi.testclient import TestClient

client = TestClient(app)


def test_adds_two_numbers():
    response = client.get("/add", params={"a": 1.25, "b": 2.5})

    assert response.status_code == 200
    assert response.json() == {"result": 3.75}


def test_adds_negative_numbers():
    assert client.get("/add", params={"a": -4, "b": 1.5}).json() == {"result": -2.5}


def test_rounds_when_asked_to():
    assert client.get("/add", params={"a": 1.2, "b": 2.5, "do_round": True}).json() == {"result": 4}
    assert client.get("/add", params={"a": 0.4, "b": 0.0, "do_round": True}).json() == {"result": 0}


def test_does_not_round_when_told_not_to():
    assert client.get("/add", params={"a": 0.5, "b": 0.25, "do_round": False}).json() == {"result": 0.75}


def test_a_missing_parameter_is_a_validation_error():
    response = client.get("/add", params={"a": 1})

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", "b"]


def test_a_word_is_a_validation_error():
    response = client.get("/add", params={"a": "one", "b": 2})

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["query", "a"]
