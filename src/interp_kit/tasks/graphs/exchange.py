"""Discrete models from and to pgmpy and networkx."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interp_kit.tasks.graphs.models import DiscreteModel, discrete_model

if TYPE_CHECKING:
    import networkx


def to_pgmpy(model: DiscreteModel) -> Any:
    """The model as pgmpy's DiscreteBayesianNetwork, values 0, 1, … as states. Needs the package pgmpy."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    names, cards = model.names, model.cardinalities
    network = DiscreteBayesianNetwork()
    network.add_nodes_from(names)
    network.add_edges_from([(names[p], name) for name, of in zip(names, model.parents, strict=True) for p in of])
    for name, of, table in zip(names, model.parents, model.tables, strict=True):
        columns = table.reshape(-1, table.shape[-1]).T
        network.add_cpds(TabularCPD(name, len(columns), columns, [names[p] for p in of], [cards[p] for p in of]))
    network.check_model()
    return network


def from_pgmpy(network: Any) -> DiscreteModel:
    """The model that a pgmpy network is; values are its states, numbered in their order.

    Raises ValueError if a variable has no table, and as `discrete_model` does.
    """
    tables = {}
    for name in network.nodes():
        table = network.get_cpds(name)
        if table is None:
            raise ValueError(f"the pgmpy network has no table for {name!r}: add it with add_cpds")
        values = np.moveaxis(np.asarray(table.values), 0, -1)
        tables[str(name)] = ([str(parent) for parent in table.variables[1:]], values)
    return discrete_model(tables)


def to_networkx(model: DiscreteModel) -> "networkx.DiGraph":
    """The model as a graph; each node has its `table`, and its `parents` in the order of the table's axes."""
    import networkx

    graph = networkx.DiGraph()
    for name, of, table in zip(model.names, model.parents, model.tables, strict=True):
        graph.add_node(name, parents=[model.names[p] for p in of], table=table.tolist())
    graph.add_edges_from((parent, name) for name, data in list(graph.nodes(data=True)) for parent in data["parents"])
    return graph


def from_networkx(
    graph: "networkx.DiGraph", rng: np.random.Generator | None = None, cardinalities: Sequence[int] = (2, 3)
) -> DiscreteModel:
    """The model that a graph is, as `to_networkx` writes it.

    rng: draws tables (rows Dirichlet(1, …, 1), values per variable among `cardinalities`) if no node has one. Raises
    ValueError if some nodes have a table and some not, if a node's parents are not its predecessors, and as
    `discrete_model` does.
    """
    without = [name for name, data in graph.nodes(data=True) if "table" not in data]
    if without and (rng is None or len(without) < len(graph)):
        raise ValueError(
            f"the node {without[0]!r} has no table: give each node a `table`, or none of them and rng to draw them"
        )
    values = dict(zip(graph, rng.choice(np.asarray(cardinalities), len(graph)).tolist(), strict=True)) if rng else {}
    tables = {}
    for name, data in graph.nodes(data=True):
        parents = list(data.get("parents", graph.predecessors(name)))
        if sorted(map(str, parents)) != sorted(map(str, graph.predecessors(name))):
            raise ValueError(
                f"the node {name!r} has parents {parents}, but edges from {list(graph.predecessors(name))}"
            )
        table = data.get("table")
        if table is None and rng is not None:
            table = rng.dirichlet(np.ones(values[name]), size=tuple(values[p] for p in parents))
        tables[str(name)] = ([str(parent) for parent in parents], table)
    return discrete_model(tables)
