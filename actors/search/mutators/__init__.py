"""Mutation operators by kind: each looks at one place and proposes changes of its text, best first."""
