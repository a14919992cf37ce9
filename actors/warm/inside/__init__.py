"""What runs inside the sandbox: trusted, standard library only, laid flat into its trusted folder."""
