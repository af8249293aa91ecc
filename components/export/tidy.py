"""ONNX graphs in the form that other tools take: constants are initializers, nodes are sorted, names can be read."""

import ast
import re
from collections import Counter

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer

SCOPES = "pkg.torch.onnx.name_scopes"
"""The exporter's note on a node: the names of the modules that it comes from, and its own, as a Python list."""

WRAPPERS = re.compile(r"^(model\.)?network\.")
"""Names of the modules around a user's network."""

PASSES = (
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    passes.LiftSubgraphInitializersToMainGraphPass(),
    passes.IdentityEliminationPass(),
    passes.RemoveUnusedNodesPass(),
    passes.TopologicalSortPass(),
)


def tidied(model: ir.Model) -> ir.Model:
    """Fold constants, lift them to initializers, and sort the nodes of a graph.

    Some tools lose constants that are nodes (onnxslim), refuse CastLike (tract), or refuse unsorted nodes.
    """
    optimizer.optimize(model, onnx_shape_inference=False)
    for change in PASSES:
        change(model)
    return model


def named_by_modules(model: ir.Model) -> ir.Model:
    """Name nodes and values by the modules of the network that they come from, as in ``layers.0.attention/MatMul``.

    Notes of the exporter, which hold paths of source files, are removed.
    """
    own = {*model.graph.inputs, *model.graph.outputs}
    counts: Counter[str] = Counter()
    for node in model.graph:
        module = _module(node)
        name = f"{module}/{node.op_type}" if module else node.op_type
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"
        for value in node.outputs:
            if module and value not in own:
                value.name = f"{module}/{value.name}"
    for value in list(model.graph.initializers.values()):
        value.name = WRAPPERS.sub("", value.name or "")
    for value in (*own, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None
    passes.ClearMetadataAndDocStringPass()(model)
    return model


def _module(node: ir.Node) -> str:
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    modules = [scope for scope in scopes[:-1] if WRAPPERS.match(scope)]
    return WRAPPERS.sub("", modules[-1]) if modules else ""
