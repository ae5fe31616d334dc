"""The built-in recipes, one TOML file each; read them with `perturbify.recipe`."""
