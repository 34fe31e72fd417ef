"""One run on several devices, of one machine or several: what lies where, who writes, and what all agree on."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cellgap.errors import ConfigError

_Tree = TypeVar("_Tree")

DEVICES = "devices"
"""Name of the axis along which work is shared out."""


def initialize(coordinator: str, n_processes: int, process: int) -> None:
    """Join a run over several processes, on one machine or several; call it before anything else that uses JAX.

    Every process runs the same program on the same data with the same key, with ``devices`` set to the number of
    devices of all of them together. Only process 0 writes checkpoints and logs and shows progress; the run folder must
    be on a file system that all share.

    Parameters
    ----------
    coordinator
        Address and port of process 0, such as ``"10.0.0.1:12345"``.
    n_processes
        How many take part.
    process
        Number of this one, from 0.

    Raises
    ------
    ConfigError
        An argument is out of range, or JAX has been used before.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f'coordinator must be an address and a port, such as "10.0.0.1:12345", found {coordinator!r}.'
        )
    if n_processes < 1 or not 0 <= process < n_processes:
        raise ConfigError(f"process must be one of 0 to n_processes - 1, found {process} of {n_processes}.")
    try:
        jax.distributed.initialize(coordinator, n_processes, process)
    except RuntimeError as error:
        reason = (str(error).splitlines() or ["no message"])[0].rstrip(".")
        raise ConfigError(f"the processes could not be joined ({reason}): call train.initialize first.") from error


def mesh_of(devices: int | None) -> Mesh | None:
    """Return the mesh of the first devices that JAX found; None where everything happens on the default device.

    Raises
    ------
    ConfigError
        There are fewer, or some of several processes would have nothing to do.
    """
    if devices is None or devices == jax.process_count() == 1:
        return None
    found = jax.device_count()
    if devices > found:
        raise ConfigError(
            f"devices={devices} asks for more devices than the {found} that JAX found "
            f"({jax.default_backend()}): on a CPU set JAX_NUM_CPU_DEVICES={devices} to divide it."
        )
    if jax.process_count() > 1 and devices != found:
        raise ConfigError(f"devices must be {found}, those of all {jax.process_count()} processes, found {devices}.")
    return Mesh(np.asarray(jax.devices()[:devices]), (DEVICES,))


def on_mesh(tree: _Tree, mesh: Mesh | None, *axes: str | None) -> _Tree:
    """Return a tree with its arrays on all devices of a mesh, copied to each, or cut along the axes named.

    Parameters
    ----------
    tree
        Its arrays are moved; in every process they are the same.
    mesh
        None leaves the tree as it is.
    axes
        For each leading axis of an array the mesh axis along which it is cut, or None.
    """
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec(*axes))

    def put(x: Any) -> Any:
        if not eqx.is_array(x) and not isinstance(x, np.ndarray | np.generic):
            return x
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(put(jr.key_data(x)), impl=jr.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def off_mesh(tree: _Tree, mesh: Mesh | None) -> _Tree:
    """Return a tree that lies on all devices as ordinary arrays of this process."""
    return tree if mesh is None else jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def over_devices(function: Callable[[Any, Any], tuple[Any, Any]], mesh: Mesh) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return `function`, a part of a compiled step, with its items shared out over the devices of a mesh.

    Parameters
    ----------
    function
        ``(shared, items) -> (total, each)``. It gets all of the tree `shared` and, on each device, a part of the first
        axis of the tree `items`; what it returns is summed over devices (`total`) and joined in the order of the items
        (`each`).
    mesh
        As `mesh_of` returns it; its devices divide the items.
    """

    def here(shared: Any, items: Any) -> tuple[Any, Any]:
        total, each = function(shared, items)
        return jax.lax.psum(total, DEVICES), jax.lax.all_gather(each, DEVICES, tiled=True)

    all_of, cut = PartitionSpec(), PartitionSpec(DEVICES)
    # The check of what varies over devices would sum gradients by itself; here it is said.
    return jax.shard_map(here, mesh=mesh, in_specs=(all_of, cut), out_specs=(all_of, all_of), check_vma=False)


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    return flag if jax.process_count() == 1 else bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def all_equal(number: int) -> bool:
    """Return whether a number is the same in all processes."""
    if jax.process_count() == 1:
        return True
    return len(np.unique(multihost_utils.process_allgather(np.asarray(number)))) == 1


def meet() -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("cellgap.train")
