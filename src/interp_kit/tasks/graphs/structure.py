"""The structure of compact questions, many at once: what is relevant, how deep it lies, and the order of elimination.

A question asks for P(Y = 1 | do(X = x)) or P(Y = 1 | X = x). Its *targets* are Y, and X too if X is observed; its graph
is cut of the edges into X if X is set. *Relevant* are the targets and their ancestors, less an X that is set. The
*depth* is the largest distance of a relevant variable from the nearest target.
"""

from dataclasses import dataclass

import numpy as np

from interp_kit.tasks.graphs.shapes import NODES, edges_of

STEPS = NODES
AXES = (1, 2, 3, 3, 1)  # Most variables that the factor after each step is over; tests hold it over all questions.
DO, SEE = 0, 1
FAR = NODES + 1


@dataclass(frozen=True)
class Structure:
    """The structure of n questions.

    relevant: (n, 5) True for relevant variables; depth: (n,); connected: (n,) False if the graph alone shows that X
    tells nothing of Y: a set X is not an ancestor of Y, or an observed X has no common ancestor with it;
    order: (n, 5) the variable whose table each step of forward elimination multiplies in, -1 after the last; live:
    (n, 5, 3) variables that the factor after each step is over, in rising order, -1 for none.

    Forward elimination takes the first relevant variable by name whose relevant parents are all taken, multiplies its
    table in, and sums out every variable that is neither Y nor a parent of a relevant one to come. X is never summed:
    its value is given.
    """

    relevant: np.ndarray
    depth: np.ndarray
    connected: np.ndarray
    order: np.ndarray
    live: np.ndarray


def acyclic(parents: np.ndarray) -> np.ndarray:
    """(n,) True for graphs without a cycle."""
    left = np.ones(parents.shape[:2], dtype=bool)
    edges = edges_of(parents)
    for _ in range(NODES):
        left &= (edges & left[:, :, None]).any(1)
    return np.logical_not(np.any(left, axis=1))


def structure(parents: np.ndarray, kind: np.ndarray, x: np.ndarray, y: np.ndarray) -> Structure:
    """The structure of questions of a kind (DO or SEE) about variables x and y, each (n,), in acyclic graphs."""
    n, rows = len(kind), np.arange(len(kind))
    edges = edges_of(parents)
    edges[rows, :, x] &= (kind == SEE)[:, None]
    to_x, to_y = _distance(edges, x), _distance(edges, y)
    distance = np.where((kind == SEE)[:, None], np.minimum(to_x, to_y), to_y)
    relevant = distance < FAR
    relevant[rows, x] &= kind == SEE
    depth = np.where(relevant, distance, 0).max(1)
    connected = np.where(kind == SEE, ((to_x < FAR) & (to_y < FAR)).any(1), to_y[rows, x] < FAR)
    order, live = np.full((n, STEPS), -1), np.full((n, STEPS, 3), -1)
    done = np.zeros((n, NODES), dtype=bool)
    for step in range(STEPS):
        waiting = relevant & ~done
        free = waiting & ~(edges & waiting[:, :, None]).any(1)
        taken = free.any(1)
        chosen = free.argmax(1)
        done[rows[taken], chosen[taken]] = True
        needed = np.any(edges & (relevant & ~done)[:, None, :], axis=2)
        needed[rows, y] = True
        kept = np.logical_and(done, needed)
        kept[rows, x] = False
        order[:, step] = np.where(taken, chosen, -1)
        names = np.sort(np.where(kept, np.arange(NODES), NODES), axis=1)[:, :3]
        live[:, step] = np.where(np.asarray(taken)[:, None] & (names < NODES), names, -1)
    return Structure(relevant, depth, connected, order, live)


def _distance(edges: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, 5) edges on the shortest directed path from each variable to the target, FAR if there is none."""
    distance = np.full(edges.shape[:2], FAR)
    distance[np.arange(len(target)), target] = 0
    for _ in range(NODES - 1):
        distance = np.minimum(distance, np.where(edges, distance[:, None, :] + 1, FAR).min(-1))
    return distance
