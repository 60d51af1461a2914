"""Write a distillation's config: python tools/new.py --student CONFIG --teacher CONFIG --data FOLDER --out FILE.py."""

from lad.commands.new import main

if __name__ == "__main__":
    main()
