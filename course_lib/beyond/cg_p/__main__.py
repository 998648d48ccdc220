"""`python -m course_lib.beyond.cg_p` trains the kept edge predictor anew and writes its file."""

from course_lib.beyond.cg_p.predictor_training import main

if __name__ == "__main__":
    main()
