"""Campaigns of faults: trainings that are killed, disks that are full, files that are damaged.

    make faults                        all of them, in about half an hour
    python -m tests.faults --kills 20  fewer kills; --help lists what can be chosen

``tests/test_faults.py`` runs a short form of each.
"""
