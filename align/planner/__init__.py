"""What a stage needs before it is started: memory, disk, seconds for each save, tokens a second, hours.

    settings.py    the machines and the rows that a plan assumes
    launches.py    processes and ZeRO-3 of a launch file
    training.py    SFT, DPO and the reward model          sampling.py    generation, and scoring by a model
    stages.py      which stages a config has              report.py      the table, and what to change

Figures of memory have one definition, which training reports its own use against (`align/trainers/footprint.py`).
"""
