"""Phrases around calls: system messages, replies if no function fits, small talk, and questions that need no function.

The texts are data: an edit changes the rows that a seed gives.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SYSTEM = (
    "", "", "", "", "", "",
    "You are a helpful assistant.",
    "You are a helpful assistant with access to functions. Use them if required.",
    "Answer briefly. Call a function where one fits the request.",
    "You help with everyday questions. Only call functions that are offered.",
)  # fmt: skip
"""Most dialogs have no system message."""

NONE_RIGHT = (
    "None of the functions that I have can do that.",
    "I don't have a function for this request.",
    "I can't do that with the functions offered: {names} does something else.",
    "The functions here don't cover that. What is offered is this: {does}.",
    "That is outside what the offered functions can do.",
    "I'm not able to answer this with {names}.",
    "No function here fits your request, so I won't call one.",
    "The tools at hand are for something else ({does}), so I can't help with this one through them.",
    "There is no suitable function for that among those offered.",
    "None of these functions fits. If you can offer one that does, I will use it.",
    "I would need another function for this; {names} won't do.",
    "Unfortunately the available functions are for something else, so I can't call one here.",
)

CORRECTIONS = (
    "The function does not take {wrong!r}. I try {right!r}.",
    "That was refused; it wants {right!r}.",  # codespell:ignore wants
    "I mend the call: {right!r} in the place of {wrong!r}.",  # codespell:ignore mend
    "",
)

SMALL_TALK = (
    ("Thanks!", "You're welcome."),
    ("Thank you, that helps.", "Glad to hear it. Is there anything else?"),
    ("Great.", "Good. Tell me if you need more."),
    ("Are you sure?", "Yes, that is what the function returned."),
    ("Okay, that was quick.", "Happy to help."),
    ("Where did you get that from?", "From the function that I called."),
    ("Can I ask you something else?", "Of course, go ahead."),
    ("Nice, you are good at this.", "Thank you. What comes next?"),
)

EASY = (
    ("Hello there!", "Hello! How can I help you?"),
    ("Good morning", "Good morning! What can I do for you?"),
    ("What is 2 plus 3?", "2 plus 3 is 5."),
    ("What's 10 minus 4?", "10 minus 4 is 6."),
    ("How many days are in a week?", "A week has 7 days."),
    ("How many months does a year have?", "A year has 12 months."),
    ("What color do you get from mixing blue and yellow?", "Blue and yellow give green."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("Which is bigger, 7 or 12?", "12 is bigger than 7."),
    ("Can you spell the word 'window'?", "W-i-n-d-o-w."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Who wrote Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet."),
    ("What do bees make?", "Bees make honey."),
    ("Tell me a short joke.", "Why did the scarecrow win a prize? He was outstanding in his field."),
    ("What is frozen water called?", "Frozen water is called ice."),
    ("Name a primary color.", "Red is a primary color."),
    ("How many legs does a spider have?", "A spider has 8 legs."),
    ("What season comes after winter?", "Spring comes after winter."),
    ("Give me a word that rhymes with cat.", "Hat rhymes with cat."),
    ("Translate 'thank you' into Spanish.", "Gracias."),
    ("What is the first letter of the alphabet?", "The first letter is A."),
    ("Do I need an umbrella when it rains?", "Yes, an umbrella keeps you dry when it rains."),
    ("Is the sun hot?", "Yes, the sun is very hot."),
    ("What are you?", "I am an assistant that can answer questions and call functions."),
    ("What can you help me with?", "I can answer questions, and call the functions that I am offered where they fit."),
    ("Write one sentence about autumn.", "In autumn the leaves turn red and gold and fall from the trees."),
    ("Say something encouraging.", "You have come far already, and the next step is within reach."),
    ("Suggest a name for a black cat.", "How about Shadow?"),
    ("What is half of 20?", "Half of 20 is 10."),
    ("Which planet do we live on?", "We live on Earth."),
    ("How do you say goodbye in French?", "Au revoir."),
    ("What is a baby dog called?", "A baby dog is called a puppy."),
    ("I feel tired today.", "I'm sorry to hear that. A short break or an early night may help."),
    ("Explain in one sentence what a dictionary is.", "A dictionary is a book that tells what words mean."),
    ("Please rewrite this politely: give me the salt.", "Could you please pass me the salt?"),
    ("What's your favorite color?", "I have no favorite, but many people like blue."),
)

_JOINS = ("{} Also: {}", "{} And: {}", "{} Then: {}", "{}\n{}", "{} {}", "{} Please also tell me this: {}")


def joined(requests: Sequence[str], rng: random.Random) -> str:
    """Several requests in one message."""
    text, *further = requests
    join = rng.choice(_JOINS)
    for more in further:
        text = join.format(text, more)
    return text
