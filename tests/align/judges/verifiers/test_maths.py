"""The final answer of a text, and whether it equals the reference: cases worked by hand, right and wrong."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from align.judges.verifiers.maths import MathsVerifier, final_answer, plain_notation, same_answer, same_expression
from align.rows import Message
from align.tools.results import ToolFailure

VERIFIER = MathsVerifier()


def reason(text: str, answer: str, tolerance: float = 0.0) -> str | None:
    """The reason why the text does not pass; None if it passes."""
    entry = VERIFIER.read({"answer": answer, "tolerance": tolerance})
    failure = VERIFIER.failure((Message(role="assistant", content=text),), entry)
    return None if failure is None else failure.reason


@pytest.mark.parametrize(
    "text, expected",
    [
        (r"First \boxed{3}, and so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"The answer is 7. That is \boxed{\text{about } 8}", r"\text{about } 8"),
        (r"\boxed{}", None),
        (r"\boxed{4", None),
        ("6 * 7 = 42\n#### 42\n", "42"),
        ("The answer is 3. No: the answer is 4 apples. There are 5 of us.", "4 apples"),
        ("**Answer:** 12", "12"),
        ("Answer:\n42", "42"),
        ("Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.", "$\\frac{1}{2}$"),
        ("The answer is not 5. It is 3.5 km. Done.", "3.5 km"),
        ("7 of 10-5 of them", "7 of 10-5 of them"),
        ("The result is:\n\n- 42", "42"),
        ("Total - 42 apples", "42 apples"),
        ("- 5", "- 5"),
        ("So x > 5.", "So x > 5."),
        ("It was 1,234,567, all in all.", "1,234,567"),
        ("Nothing to say.", None),
        ("", None),
    ],
)
def test_the_final_answer_of_a_text(text: str, expected: str | None) -> None:
    found = final_answer(text)
    assert (None if found is None else found.text) == expected


@pytest.mark.parametrize(
    "text, answer",
    [
        ("So she has 42 apples left.", "42"),
        ("The answer is 42, because 6 * 7 = 42.", "42"),
        ("The answer is 42.0", "42"),
        ("It costs $1,234.50.", "1234.5"),
        (r"\boxed{12{,}345}", "12345"),
        (r"\boxed{12\,345}", "12,345"),
        ("The answer is **-5**.", "-5"),
        ("The answer is \u22125.", "-5"),
        ("The answer is 3/4.", "0.75"),
        ("The answer is 1 3/4 cups.", "1.75"),
        ("The answer is 1½.", "3/2"),
        (r"\boxed{\frac34}", "3/4"),
        (r"\boxed{-\dfrac{6}{8}}", "-3/4"),
        ("The answer is 50%.", "50"),
        ("The answer is 50.", "50%"),
        ("The answer is 0.5.", r"50\%"),
        ("The answer is 12.5 percent.", "12.5%"),
        ("The answer is 2.5 million.", "2500000"),
        ("The answer is x = 5.", "5"),
        ("The answer is 5 + 3 = 8.", "8"),
        ("The answer is 3 hours.", "3 h"),
        ("The answer is 5km.", "5"),
        ("The answer is 7 (apples).", "7 apples"),
        (r"\boxed{5\text{ cm}}", "5 cm"),
        (r"\boxed{(1, 2)}", "(1,2)"),
        (r"\boxed{B}", "b"),
        (r"\boxed{3 x^2}", "3x^2"),
        (r"\boxed{2 \sqrt{5}}", r"2\sqrt{5}"),
        ("The answer is 5 cm^2.", "5"),
        ("The answer is 5 m^2.", "5 square meters"),
        ("The answer is 60 miles per hour.", "60 mph"),
        ("The answer is 5 km/h.", "5"),
        ("The answer is 42 because 6 * 7 = 42.", "42"),
        ("The answer is that she has 42 apples left over.", "42"),
        ("The answer is 10 hours a day.", "10"),
        ("The answer is 2.5 million dollars.", "$2500000"),
        ("The result is:\n\n- 42", "42"),
        ("The result is:\n* 42", "42"),
        ("Total - 42 apples", "42"),
        ("Half of 48 is 24.", "24"),
        ("So she has 42!", "42"),
        ("It makes 42, so that is it.", "42"),
        ("- 5", "-5"),
        ("The answer is -$5.", "-5"),
        ("The answer is \u20135.", "-5"),
        ("So y = 3 * 5", "15"),
        ("Step 3: 42", "42"),
        ("So it is -5.", "-5"),
        ("She needs 5 more apples.", "5"),
        ("Thus, it costs $18.50 per week.", "18.5"),
        ("The answer is 25 students' books.", "25"),
        ("The answer is 6 - 2 = 4 apples.", "4"),
        ("42 it is", "42"),
        ("The area of the square is 42 cm^2.", "42"),
        ("The two numbers sum to 42.", "42"),
        ("Ann picked up 42.", "42"),
        ("Twice as many would be 42.", "42"),
        ("It was 42 years ago.", "42"),
        ("The answer is 42 for each child.", "42"),
        ('The answer is "42".', "42"),
        ("The answer is `42`.", "42"),
        ("The answer is 42 people, including John.", "42"),
        ("It took 3 * 4 = <<3*4=12>>12 hours", "12"),
        ("The answer is 42 sq ft.", "42 square feet"),
        (r"\boxed{42 \text{ units}^2}", "42"),
        (r"\boxed{42\ \text{cm}}", "42"),
        ("1. Add 6.\n2. So it is 42.", "42"),
    ],
)
def test_a_right_answer_passes(text: str, answer: str) -> None:
    assert reason(text, answer) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "text, answer",
    [
        ("So she has 43 apples left.", "42"),
        ("The answer is 0.33.", "1/3"),
        ("The answer is 42.", "-42"),
        ("The answer is 10-5.", "-5"),
        ("The answer is 50%.", "0.5%"),
        ("The answer is 5%.", "0.5"),
        ("The answer is 3 km.", "3 m"),
        ("The answer is $3.", "3 cents"),
        ("The answer is 2.5 million.", "2.5"),
        ("The answer is 5 or 6.", "5"),
        ("The answer is x^2.", "2"),
        ("The answer is 5 + 3 = 8.", "5"),
        ("The answer is sqrt(2).", "2"),
        ("The answer is 1.234.", "1234"),
        ("The answer is 12,34.", "1234"),
        ("The answer is not 42.", "41"),
        ("The answer is 42. Or rather, the answer is 43.", "42"),
        (r"\boxed{\frac{3}{0}}", "3"),
        (r"\boxed{(1, 2)}", "(2,1)"),
        (r"\boxed{2x}", "2"),
        (r"\boxed{2 \sqrt{5}}", r"2 \sqrt{3}"),
        (r"\boxed{2 \sqrt{5}}", "2"),
        (r"\boxed{3 x^2}", "3 x^3"),
        (r"\boxed{3 x^2}", "3"),
        (r"\boxed{3 \cos(x)}", "3"),
        (r"\boxed{3 \cos x}", "3"),
        (r"\boxed{3 cosx}", "3"),
        (r"\boxed{3 \alpha}", "3"),
        (r"\boxed{2 xy}", "2"),
        (r"\boxed{2 abc}", "2"),
        (r"\boxed{3m}", "3"),
        (r"\boxed{5!}", "5"),
        (r"\boxed{5 squared}", "5"),
        (r"\boxed{3 (x + 1)}", "3"),
        (r"\boxed{5 \text{ cm}^2}", "5 cm^3"),
        (r"\boxed{5 \text{ cm}^2}", "5 cm"),
        ("The answer is 5 m per second.", "5 m"),
        ("The answer is 3ab.", "3"),
        ("The answer is $3x^2$.", "3"),
        (r"The answer is $2\sqrt{3}$.", "2"),
        ("So the area is 3x^2.", "3"),
        ("So the area is 3 x.", "3"),
        (r"\boxed{2 \text{ hours } 15 \text{ minutes}}", "2 hours 30 minutes"),
        ("The answer is 5 feet 6 inches.", "5 feet"),
        ("The answer is 5 feet, 6 inches.", "5 feet"),
        ("The answer is 5 feet and six inches.", "5 feet"),
        ("She is 5 feet 6 inches.", "6 inches"),
        ("The answer is 3 dozen.", "3"),
        ("The answer is 2 hundred thousand.", "200"),
        ("The answer is 5 and a half.", "5"),
        ("The answer is 5 hours and a half.", "5"),
        ("The answer is 3 quarters.", "3"),
        ("The result is:\n\n- 42", "-42"),
        ("Total - 42 apples", "-42"),
        ("So x = - 5", "5"),
        ("The answer is \u20135.", "5"),
        ("The answer is minus 5.", "5"),
        ("It is negative 5.", "5"),
        ("The answer is 5 more than 37.", "5"),
        ("It is 5 more than 37.", "37"),
        ("The answer is greater than 5.", "5"),
        ("It is greater than 5.", "5"),
        ("The answer is at least 5.", "5"),
        ("The answer is x > 5.", "5"),
        ("The answer is x >= 5.", "5"),
        (r"The answer is $x \geq 5$.", "5"),
        ("The answer is 3:4.", "3"),
        ("The ratio is 3:4.", "4"),
        ("The answer is 5 < x.", "5"),
        ("The answer is x = 5 or x = 6.", "6"),
        ("The answer is x = 5 or x = 6.", "5"),
        ("The answer is 5 apples, 6 pears.", "5"),
        ("The answer is 5 apples, or 6.", "5"),
        ("The answer is the square root of 16.", "16"),
        ("It is twice 8.", "8"),
        ("So y = 3 * 5", "5"),
        ("So y = x -5", "-5"),
        ("The solutions are 5 and 6.", "6"),
        ("The solutions are (5, 6).", "6"),
        ("42 = 6 * 7", "7"),
        ("So y = 2x - 5", "5"),
        ("So y = 2xy -5", "-5"),
        ("So 5 cm x 3 cm", "3"),
        ("So f(5)", "5"),
        ("It is 2 kg, 300 g.", "300"),
        ("The answer is 5 percent of x.", "5"),
        ("The answer is 5:30.", "5"),
        (r"\boxed{5 \pm 2}", "5"),
        (r"\boxed{101_2}", "101"),
        (r"\boxed{5;6}", "5"),
        ("The answer is $\\log_2 8$.", "8"),
        ("2**5", "5"),
        ("So it is 3 x^2", "3"),
        ("It is two thirds of 42.", "42"),
        ("It can be up to 42.", "42"),
        ("So 2^{5}", "5"),
        ("It is 2 000 000.", "0"),
        ("So it is 3 (5)", "5"),
        ("The answer is 0.333...", "0.333"),
        (r"\boxed{45^\circ}", "45 radians"),
        ("It isn't 5.", "5"),
        ("She does not have 5.", "5"),
        ("Is the answer 5? No.", "5"),
        ("See equation (5)", "5"),
        ("1. Add them.\n2. Divide them.", "2"),
        ("The answer is 5 apples, or six.", "5"),
        ("The answer is 5 if x is odd.", "5"),
    ],
)
def test_a_wrong_answer_fails(text: str, answer: str) -> None:
    assert reason(text, answer) == "wrong answer"


def test_a_tolerance_is_relative_to_the_reference() -> None:
    assert reason("About 99.", "100", 0.01) is None
    assert reason("About 101.", "100", 0.01) is None
    assert reason("About 98.9.", "100", 0.01) == "wrong answer"
    assert reason("About 99.", "100") == "wrong answer"


def test_what_gives_no_answer_has_a_reason_of_its_own() -> None:
    assert reason("I do not know.", "42") == "no answer"
    assert reason(r"\boxed{}", "42") == "no answer"
    assert reason(rf"\boxed{{{'9' * 5000}}}", "42") == "answer too long"
    assert reason("9" * 100_000, "42") == "answer too long", "Python refuses to read more than 4300 digits"
    assert reason("The answer is 1/" + "9" * 5000, "42") == "answer too long"
    assert reason("The answer is 42, " + "as was shown " * 50, "42") is None


@pytest.mark.parametrize(
    "latex, plain",
    [
        (r"$\frac{3}{4}$", "3/4"),
        (r"\frac{\sqrt{2}}{2}", "((sqrt(2))/(2))"),
        (r"2\sqrt3", "2sqrt(3)"),
        ("x^{10}", "x^(10)"),
        ("x²", "x^2"),
        (r"\left(x+1\right)(x-1)", "(x+1 )*(x-1)"),
        ("x**2 and **42**", "x**2 and 42"),
        (r"\$5 and $6", "$5 and $6"),
        (r"90^{\circ}", "90 degrees"),
    ],
)
def test_latex_in_plain_notation(latex: str, plain: str) -> None:
    assert plain_notation(latex) == plain


@pytest.mark.slow
@pytest.mark.parametrize(
    "given, expected, equal",
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
        (r"(x+1)(x-1)", "x^2 - 1", True),
        ("0.5x", "x/2", True),
        (r"2\pi", "2*pi", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x = y + 1", "1 + y", True),
        (r"\sqrt{2}", "1.4142", False),
        (r"2\pi", "6.28", False),
        ("x^2 + 1", "x^2 - 1", False),
        ("x", "y", False),
    ],
)
def test_expressions_are_compared_exactly(given: str, expected: str, equal: bool) -> None:
    assert same_answer(given, expected) is equal


@pytest.mark.slow
def test_expressions_with_a_tolerance() -> None:
    assert same_expression("2*pi", "6.28", 0.01) == "equal"
    assert same_expression("2*pi", "6.2", 0.01) == "different"


@pytest.mark.slow
def test_hostile_answers_are_neither_run_nor_waited_for() -> None:
    began = time.monotonic()
    assert reason(r"\boxed{9**9**9**9}", "x") == "wrong answer"
    assert reason(r"\boxed{__import__('os').getcwd()}", "x") == "wrong answer"
    assert reason(r"\boxed{" + "(" * 90 + "x" + ")" * 90 + "}", "y") == "wrong answer"
    assert time.monotonic() - began < 5
    with pytest.raises(ToolFailure, match=r"nothing to calculate|no function"):
        same_expression("print(1)", "x")


def test_a_slow_comparison_has_a_reason_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_slow(*_: object) -> str:
        raise ToolFailure("time-out", "took longer than 5 seconds")

    monkeypatch.setattr("align.judges.verifiers.maths._comparer", lambda: too_slow)
    assert reason(r"\boxed{x+1}", "y") == "comparison too slow"


@pytest.mark.parametrize("part", ["answer is ", "$", "\\frac", "1,", "(", "^ {", "12 ", "\\boxed{", "*", " "])
def test_the_time_for_an_answer_grows_with_its_length_only(part: str) -> None:
    began = time.process_time()
    assert reason(part * 20_000, "5") in ("no answer", "wrong answer")
    assert time.process_time() - began < 1.5


@pytest.mark.parametrize(
    "entry", [{}, {"answer": ""}, {"answer": " "}, {"answer": 42, "unit": "km"}, {"answer": "4", "tolerance": 1}]
)
def test_an_entry_that_says_nothing_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VERIFIER.read(entry)
