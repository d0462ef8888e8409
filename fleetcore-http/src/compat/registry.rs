//! Which dialects this build has.

use super::Dialect;

/// Every dialect of this build, one line each.
pub static ALL: &[&dyn Dialect] = &[
    #[cfg(feature = "batwa")]
    &super::batwa::SERVER,
    #[cfg(feature = "batwa")]
    &super::batwa::AGENT,
    #[cfg(feature = "openhands")]
    &super::openhands::RUNTIME,
];

/// The dialect of this name, or that stands for the original program of this name.
pub fn find(name: &str) -> Option<&'static dyn Dialect> {
    ALL.iter().copied().find(|d| d.name() == name || d.aliases().contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_mean_one_dialect() {
        for dialect in ALL {
            for name in std::iter::once(dialect.name()).chain(dialect.aliases().iter().copied()) {
                assert_eq!(find(name).unwrap().name(), dialect.name(), "{name}");
            }
        }
        assert!(find("fleetcore").is_none() && find("").is_none());
    }
}
