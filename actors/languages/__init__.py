"""Languages beside Python: how their tests are run, and how their code is searched for a repair."""
