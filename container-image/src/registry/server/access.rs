//! Who may do what: whom to believe, and what to let them do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::registry::auth::{Credentials, Secret};

/// Tells whether somebody is who he says. Called from several threads at once, with each request that has a
/// password.
pub trait Authenticator: Send + Sync + fmt::Debug {
    /// Whether `password` is that of `username`.
    fn knows(&self, username: &str, password: &str) -> bool;
}

/// One user.
impl Authenticator for Credentials {
    fn knows(&self, username: &str, password: &str) -> bool {
        let given = Secret::Password {
            username: username.into(),
            password: password.into(),
        };
        self.0 == given
    }
}

/// Tells what somebody may do. Called from several threads at once, with each request.
pub trait Authorizer: Send + Sync + fmt::Debug {
    /// Whether `user`, or somebody unknown, may do this to `repository`, or to the whole registry.
    fn allows(&self, user: Option<&str>, repository: Option<&str>, action: Action) -> bool;
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Action {
    /// To see the names of all repositories.
    List,
    /// To get manifests, blobs, and the tags and referrers of a repository.
    Pull,
    /// To add manifests, blobs and tags.
    Push,
    /// To remove them.
    Delete,
}

/// Projects and their members: the first part of a repository's name is its project.
///
/// Nobody but administrators may do anything outside of the projects named here, or see all of the names.
///
/// ```
/// use container_image::server::{Action, Authorizer, Project, Projects, Role};
///
/// let shop = Project::new().member("alice", Role::Admin).member("bob", Role::Guest);
/// let projects = Projects::new().project("shop", shop).project("library", Project::public());
/// assert!(projects.allows(Some("alice"), Some("shop/app"), Action::Delete));
/// assert!(!projects.allows(Some("bob"), Some("shop/app"), Action::Push));
/// assert!(projects.allows(None, Some("library/busybox"), Action::Pull));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Projects {
    projects: BTreeMap<String, Project>,
    administrators: BTreeSet<String>,
}

/// The members of a project, and whether others may pull from it.
#[derive(Clone, Debug, Default)]
pub struct Project {
    is_public: bool,
    members: BTreeMap<String, Role>,
}

/// What a member of a project may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// Pull.
    Guest,
    /// Pull and push.
    Developer,
    /// Pull, push and delete.
    Admin,
}

impl Projects {
    /// No project at all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a project, or replaces it.
    #[must_use]
    pub fn project(mut self, name: impl Into<String>, project: Project) -> Self {
        self.projects.insert(name.into(), project);
        self
    }

    /// Lets `user` do everything everywhere.
    #[must_use]
    pub fn administrator(mut self, user: impl Into<String>) -> Self {
        self.administrators.insert(user.into());
        self
    }
}

impl Project {
    /// A project for its members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A project that everybody may pull from.
    #[must_use]
    pub fn public() -> Self {
        Self {
            is_public: true,
            members: BTreeMap::new(),
        }
    }

    /// Adds a member, or changes his role.
    #[must_use]
    pub fn member(mut self, user: impl Into<String>, role: Role) -> Self {
        self.members.insert(user.into(), role);
        self
    }
}

impl Authorizer for Projects {
    fn allows(&self, user: Option<&str>, repository: Option<&str>, action: Action) -> bool {
        if user.is_some_and(|user| self.administrators.contains(user)) {
            return true;
        }
        let project = repository.and_then(|repository| repository.split('/').next());
        let Some(project) = project.and_then(|name| self.projects.get(name)) else {
            return false;
        };
        let role = user.and_then(|user| project.members.get(user));
        match action {
            Action::List => false,
            Action::Pull => project.is_public || role.is_some(),
            Action::Push => role.is_some_and(|role| *role >= Role::Developer),
            Action::Delete => role.is_some_and(|role| *role >= Role::Admin),
        }
    }
}
