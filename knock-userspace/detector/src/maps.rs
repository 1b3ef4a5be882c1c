//! Typed access to the program's maps by name.

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError};
use knock_common::abi::maps::TRIE;
use knock_common::abi::{Edge, Transition};

use super::DetectorError;

/// The map of the trie, to be written.
pub(super) type TrieMap<'a> = HashMap<&'a mut MapData, Edge, Transition>;

/// Returns the map called `name`, to be read.
pub(super) fn shared<'a, M>(ebpf: &'a Ebpf, name: &'static str) -> Result<M, DetectorError>
where
    M: TryFrom<&'a Map, Error = MapError>,
{
    let map = ebpf.map(name).ok_or(DetectorError::Missing(name))?;
    map.try_into().map_err(DetectorError::map(name))
}

/// Returns the map called `name`, to be written.
pub(super) fn exclusive<'a, M>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<M, DetectorError>
where
    M: TryFrom<&'a mut Map, Error = MapError>,
{
    let map = ebpf.map_mut(name).ok_or(DetectorError::Missing(name))?;
    map.try_into().map_err(DetectorError::map(name))
}

/// Returns the map of the trie, to be written.
pub(super) fn trie(ebpf: &mut Ebpf) -> Result<TrieMap<'_>, DetectorError> {
    exclusive(ebpf, TRIE)
}
