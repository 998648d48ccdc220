"""`python -m course_lib.temporal.skimming` trains the recorded readers anew and writes their file."""

from course_lib.temporal.skimming.recorded import main

if __name__ == "__main__":
    main()
