"""The pure core: values and decisions, no Ray, no clock, no I/O.

A task, from door to report:

| step | decided in (pure) | done in (edge) |
| --- | --- | --- |
| 1 task in | `orchestrator/task.py` | `serve/cli.py` |
| 2 graph, ready steps | `orchestrator/graph_run.py` | `cluster/graphs.py` |
| 3 lease a replica | `orchestrator/scheduling.py` | `cluster/scheduler.py` |
| 4 agent works | `orchestrator/loop.py` | `cluster/fleet.py` hosting `actors/coder.py`, … |
| 5 sandboxed test run | | `actors/runner.py`, `actors/sandbox/` |
| 6 verdict | `orchestrator/verdict.py` | |
| 7 event log | `orchestrator/events.py` | `cluster/event_log.py` |
| 8 report | `orchestrator/report.py` | `serve/render.py` |
"""
