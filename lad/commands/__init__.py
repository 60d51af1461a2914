"""The subcommands of ``lad``, a module each with a ``main()``; the files in ``tools/`` call the same functions."""
