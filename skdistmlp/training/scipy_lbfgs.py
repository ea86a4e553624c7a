"""SciPy's L-BFGS as a conversation: it asks for evaluations, and waits for answers."""

from collections.abc import Callable, Generator
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias

from scipy.optimize import OptimizeResult, minimize

from skdistmlp.nn.types import FloatArray

Evaluation: TypeAlias = tuple[float, FloatArray]
"""Loss and gradient."""


@dataclass(frozen=True)
class LbfgsOptions:
    """What scipy needs of the estimator's parameters.

    Attributes
    ----------
    max_iter : int
        Maximum number of iterations.
    max_fun : int
        Maximum number of evaluations of loss and gradient.
    tol : float
        Ends when no entry of the gradient is larger.
    """

    max_iter: int
    max_fun: int
    tol: float


def run_scipy(
    evaluate: Callable[[FloatArray], Evaluation],
    start: FloatArray,
    options: LbfgsOptions,
    callback: Callable[[OptimizeResult], None] | None = None,
) -> OptimizeResult:
    """Run L-BFGS from `start` to its end; see `scipy.optimize.minimize`."""
    return minimize(
        evaluate,
        start,
        method="L-BFGS-B",
        jac=True,
        callback=callback,
        options={
            "maxfun": options.max_fun,
            "maxiter": options.max_iter,
            "gtol": options.tol,
        },
    )


@dataclass(frozen=True)
class Iterate:
    """Where an iteration ended.

    Attributes
    ----------
    n_iter : int
        Number of iterations so far.
    loss : float
        Loss there.
    parameters : ndarray of float64, shape (n_parameters,)
        All parameters of the network, in an array that nobody writes to.
    n_evaluations : int
        Number of evaluations until then.
    """

    n_iter: int
    loss: float
    parameters: FloatArray
    n_evaluations: int


@dataclass(frozen=True)
class Request:
    """What SciPy wants to know next.

    Attributes
    ----------
    x : ndarray of float64, shape (n_parameters,)
        Where to evaluate.
    ended : Iterate or None
        The iteration that has ended since the last request, if one has.
    """

    x: FloatArray
    ended: Iterate | None = None


Search: TypeAlias = Generator[Request, Evaluation, OptimizeResult]
"""Yields requests, is sent their answers, and returns what SciPy found."""


def search_in_thread(start: FloatArray, options: LbfgsOptions) -> Search:
    """Run L-BFGS in a thread that waits between two evaluations.

    The thread begins with the first `next`. It ends when the search does: with its
    result, with an error, or when the generator is closed or nobody refers to it.

    Parameters
    ----------
    start : ndarray of shape (n_parameters,)
        Where to start.
    options : LbfgsOptions
        When to end.

    Yields
    ------
    Request
        To be answered by `send` with an `Evaluation`.

    Returns
    -------
    OptimizeResult
        What SciPy found.
    """
    asked: SimpleQueue[Request | OptimizeResult | BaseException] = SimpleQueue()
    answers: SimpleQueue[Evaluation | None] = SimpleQueue()
    # The thread must not refer to this generator, which would never be collected
    # then. NumPy's handling of floating-point errors is in the context. A daemon: a
    # search that somebody forgot must not keep the process from ending.
    thread = Thread(
        target=copy_context().run,
        args=(_converse, start, options, asked, answers),
        name="skdistmlp-lbfgs",
        daemon=True,
    )
    try:
        thread.start()
        while isinstance(request := asked.get(), Request):
            answers.put((yield request))
        if isinstance(request, BaseException):
            try:
                raise request
            finally:
                # Its traceback refers to this frame: a cycle.
                del request
        return request
    finally:
        # Whether it waits for an answer, is about to, or has ended.
        answers.put(None)
        if thread.ident is not None:
            thread.join()


class _ClosedError(Exception):
    """Nobody answers any more."""


def _converse(
    start: FloatArray,
    options: LbfgsOptions,
    asked: "SimpleQueue[Request | OptimizeResult | BaseException]",
    answers: "SimpleQueue[Evaluation | None]",
) -> None:
    """Run SciPy in this thread; put its requests, and at last its result."""
    n_iter, n_evaluations, ended = 0, 0, None

    def evaluate(x: FloatArray) -> Evaluation:
        nonlocal n_evaluations, ended
        asked.put(Request(x, ended))
        ended = None
        answer = answers.get()
        if answer is None:
            raise _ClosedError
        n_evaluations += 1
        return answer

    # SciPy passes a result to a parameter of this name, else only the array.
    def note(intermediate_result: OptimizeResult) -> None:
        nonlocal n_iter, ended
        n_iter += 1
        # SciPy goes on writing to its array.
        parameters = intermediate_result.x.copy()
        loss = float(intermediate_result.fun)
        ended = Iterate(n_iter, loss, parameters, n_evaluations)

    try:
        asked.put(run_scipy(evaluate, start, options, note))
    except _ClosedError:
        pass
    except BaseException as error:
        asked.put(error)
