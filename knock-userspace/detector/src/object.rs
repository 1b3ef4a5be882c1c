//! The XDP program's object, built by `build.rs` and embedded here.

use aya::include_bytes_aligned;

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/knock-ebpf"));

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use knock_common::abi::{PORTS, maps, programs, variables};
    use object::read::elf::ElfFile64;
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

    use super::OBJECT;

    /// Symbols of aya's logging macros begin like this.
    const LOGGING: &str = "AYA_";

    /// A symbol's place in its section, and its size.
    type Place = (usize, usize);

    /// The global symbols of a kind, by name, with the bytes of the section in which they lie.
    fn symbols(section: &str, kind: SymbolKind) -> (Vec<u8>, BTreeMap<String, Place>) {
        let file: ElfFile64<'_> = ElfFile64::parse(OBJECT).expect("an object");
        let section = file.section_by_name(section).expect("the section");
        let symbols = file.symbols().filter(|symbol| {
            symbol.is_global()
                && symbol.kind() == kind
                && symbol.section_index() == Some(section.index())
        });
        let named = symbols.map(|symbol| {
            let name = symbol.name().expect("a name").to_owned();
            (name, (symbol.address() as usize, symbol.size() as usize))
        });
        let named = named.filter(|(name, _)| !name.starts_with(LOGGING)).collect();
        (section.data().expect("the bytes").to_owned(), named)
    }

    /// Name and size of the variables in a section.
    fn variables_in(section: &str) -> BTreeSet<(String, usize)> {
        let (_, symbols) = symbols(section, SymbolKind::Data);
        symbols.into_iter().map(|(name, (_, size))| (name, size)).collect()
    }

    #[test]
    fn maps_are_those_of_the_abi() {
        let (data, symbols) = symbols("maps", SymbolKind::Data);
        // `struct bpf_map_def`: type, size of a key, size of a value, entries, flags and so on.
        let word = |at: usize| u32::from_ne_bytes(*data[at..].first_chunk().expect("a word"));
        let found: BTreeSet<_> = symbols
            .iter()
            .map(|(name, (at, _))| (name.as_str(), word(at + 4) as usize, word(at + 8) as usize))
            .collect();
        let named = maps::OBJECT.iter().map(|map| (map.name, map.key, map.value)).collect();
        assert_eq!(found, named, "in the object, and in knock-common/src/abi/maps.rs");
    }

    #[test]
    fn variables_are_those_of_the_abi() {
        let named = variables::ALL.map(|(name, size)| (name.to_owned(), size));
        assert_eq!(variables_in(".rodata"), BTreeSet::from(named), "object, and abi/variables.rs");
        let classes = BTreeSet::from([(variables::CLASSES.to_owned(), PORTS)]);
        assert_eq!(variables_in(maps::CLASSES), classes, "object, and abi/variables.rs");
    }

    #[test]
    fn programs_are_those_of_the_abi() {
        let found: BTreeSet<_> = ["xdp", "xdp.frags"]
            .into_iter()
            .flat_map(|section| symbols(section, SymbolKind::Text).1.into_keys())
            .collect();
        let named = programs::ALL.map(str::to_owned);
        assert_eq!(found, BTreeSet::from(named), "object, and abi/programs.rs");
    }
}
