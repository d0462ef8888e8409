//! What the tools may do, on top of what the caller may.

use fleetcore::{Error, ErrorKind, Pattern, Result, Target};

/// Limits on what the tools do. The default has none: the caller's role decides.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct McpOptions {
    /// Offer only tools that change nothing.
    pub read_only: bool,
    /// Only targets that one of these stands for; none means all.
    pub targets: Vec<Pattern>,
}

impl McpOptions {
    /// Offers only tools that change nothing.
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Limits the tools to targets that one of these stands for.
    #[must_use]
    pub fn with_targets(mut self, targets: Vec<Pattern>) -> Self {
        self.targets = targets;
        self
    }

    /// Limits in the query of a URL: `read_only=true`, and `target=PATTERN` any number of times.
    ///
    /// # Errors
    /// `InvalidInput` for anything else: a limit that is misspelt must not be ignored.
    pub(super) fn from_query(query: &str) -> Result<Self> {
        let mut options = Self::default();
        let pairs: Vec<(String, String)> = serde_html_form::from_str(query)
            .map_err(|e| Error::invalid("query", "read_only and target").with_source(e))?;
        for (key, value) in pairs {
            match key.as_str() {
                "read_only" => {
                    options.read_only =
                        value.parse().map_err(|_| Error::invalid("read_only", "true or false"))?;
                }
                "target" => options.targets.push(value.parse()?),
                _ => return Err(Error::invalid("query", "made of read_only and target")),
            }
        }
        Ok(options)
    }

    pub(super) fn limits_targets(&self) -> bool {
        !self.targets.is_empty()
    }

    pub(super) fn covers(&self, target: &Target) -> bool {
        self.targets.is_empty() || self.targets.iter().any(|p| p.matches(target))
    }

    /// Refuses a target that is not one of those the tools are limited to.
    pub(super) fn check(&self, target: &Target) -> Result<()> {
        if self.covers(target) {
            return Ok(());
        }
        let allowed: Vec<String> = self.targets.iter().map(ToString::to_string).collect();
        Err(Error::new(ErrorKind::PermissionDenied, "these tools are limited to other targets")
            .with_operation("mcp.target")
            .with_context("target", target)
            .with_context("allowed", allowed.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_query() {
        let options = McpOptions::from_query("read_only=true&target=sandbox/*&target=local").unwrap();
        assert!(options.read_only && options.targets.len() == 2);
        options.check(&"sandbox/a".parse().unwrap()).unwrap();
        options.check(&Target::local()).unwrap();
        let refused = options.check(&"multipass/a".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        assert!(!McpOptions::from_query("").unwrap().limits_targets());
        for bad in ["readonly=true", "read_only=yes", "target=a%20b"] {
            assert_eq!(McpOptions::from_query(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
