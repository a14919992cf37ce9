"""What the list does over HTTP."""

import pytest
from app import create_app
from fastapi.testclient import TestClient


@pytest.fixture
def client():
    return TestClient(create_app())


def test_creates_a_todo(client):
    answer = client.post("/todos", json={"title": "milk"})
    assert answer.status_code == 201
    assert answer.json() == {"id": 1, "title": "milk", "done": False}


def test_refuses_an_empty_title(client):
    assert client.post("/todos", json={"title": ""}).status_code == 422


def test_lists_what_is_done(client):
    client.post("/todos", json={"title": "milk"})
    client.post("/todos", json={"title": "bread", "done": True})
    assert [todo["title"] for todo in client.get("/todos", params={"done": True}).json()] == ["bread"]


def test_finishes_only_what_is_there(client):
    client.post("/todos", json={"title": "milk"})
    assert client.post("/todos/1/done").json()["done"] is True
    assert client.post("/todos/7/done").status_code == 404
