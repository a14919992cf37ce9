"""A list of things to do, over HTTP."""

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field


class NewTodo(BaseModel):
    title: str = Field(min_length=1, max_length=80)
    done: bool = False


class Todo(NewTodo):
    id: int


def create_app() -> FastAPI:
    """An application with a list of its own."""
    app = FastAPI(title="Todo")
    todos: dict[int, Todo] = {}

    @app.post("/todos", status_code=201)
    def create(new: NewTodo) -> Todo:
        todo = Todo(id=len(todos) + 1, **new.model_dump())
        todos[todo.id] = todo
        return todo

    @app.get("/todos")
    def listed(done: bool | None = None) -> list[Todo]:
        return [todo for todo in todos.values() if done is None or todo.done is done]

    @app.post("/todos/{number}/done")
    def finish(number: int) -> Todo:
        if number not in todos:
            raise HTTPException(404, f"there is no todo {number}")
        todos[number].done = True
        return todos[number]

    return app
