//! What the public signatures of the five crates may name.
//!
//! Crates that are means, not ends, stay behind: nobody who uses ours should have to follow their versions. A name
//! is followed through the imports and type aliases of the modules between. An item counts as public if it says
//! `pub`: the lint `unreachable_pub` sees to it that only what can be reached does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{
    Attribute, Block, Fields, File, ImplItem, Item, ItemImpl, Signature, TraitItem, Type, UseTree,
    Visibility,
};

use crate::source::{SOURCE_DIRS, root, source_files};

/// Crates that no public signature names.
const HIDDEN_CRATES: [&str; 5] = ["nix", "rtnetlink", "tar", "tokio", "ureq"];

/// Names of values that are digests, for which there is a type.
const DIGEST_NAMES: [&str; 4] = ["chain_id", "diff_id", "digest", "image_id"];

#[test]
fn public_signatures_keep_the_rules() {
    let mut violations = Vec::new();
    for dir in SOURCE_DIRS {
        let files = source_files(&root().join(dir))
            .into_iter()
            .map(|(path, text)| {
                let file = syn::parse_file(&text)
                    .unwrap_or_else(|error| panic!("{dir}/{}: {error}", path.display()));
                (module_path(&path), file)
            });
        violations.extend(
            Crate::new(files)
                .violations()
                .into_iter()
                .map(|violation| format!("{dir}: {violation}")),
        );
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn broken_rules_are_found() {
    for (text, want) in [
        ("pub fn f() -> nix::Error {}", "f: names nix::Error"),
        (
            "pub fn f(x: &[Option<ureq::Body>]) {}",
            "f: names ureq::Body",
        ),
        (
            "pub fn f<T: tokio::io::AsyncRead>(x: T) {}",
            "f: names tokio::io::AsyncRead",
        ),
        (
            "pub fn f(x: impl Fn(tar::Header)) {}",
            "f: names tar::Header",
        ),
        (
            "use nix::errno::Errno; pub fn f() -> Result<(), Errno> {}",
            "f: names nix::errno::Errno",
        ),
        (
            "use nix::errno::Errno as E; pub struct S { pub e: E }",
            "S.e: names nix::errno::Errno",
        ),
        (
            "use nix::{sys::{signal}}; pub fn f(x: signal::Signal) {}",
            "f: names nix::sys::signal::Signal",
        ),
        (
            "use nix as n; pub fn f(x: n::Error) {}",
            "f: names nix::Error",
        ),
        (
            "type E = Box<nix::Error>; pub fn f(x: E) {}",
            "f: names nix::Error",
        ),
        (
            "mod sys { pub(crate) use nix::errno::Errno; } use sys::Errno; pub fn f(x: Errno) {}",
            "f: names nix::errno",
        ),
        (
            "mod a { pub fn f(x: super::b::E) {} } mod b { type E = nix::Error; }",
            "a::f: names nix::Error",
        ),
        ("use nix::*; pub fn f() {}", "import by name"),
        ("pub use nix::Error;", "use: names nix::Error"),
        (
            "pub enum E { A(u8), B { b: nix::Error } }",
            "E::B: names nix::Error",
        ),
        ("pub struct S(pub nix::Error);", "S.0: names nix::Error"),
        ("pub type T = Vec<nix::Error>;", "T: names nix::Error"),
        (
            "pub const C: tar::EntryType = g();",
            "C: names tar::EntryType",
        ),
        (
            "pub trait T { fn f(&self) -> nix::Result<()>; }",
            "T: names nix::Result",
        ),
        (
            "pub trait T: tokio::io::AsyncRead {}",
            "T: names tokio::io::AsyncRead",
        ),
        (
            "pub struct S; impl S { pub fn f(self) -> tar::Header {} }",
            "S::f: names tar::Header",
        ),
        (
            "pub struct S; impl From<nix::Error> for S { fn from(e: nix::Error) -> S {} }",
            "impl From for S: names nix::E",
        ),
        (
            "pub struct S; impl Iterator for S { type Item = tar::Header; }",
            "impl Iterator for S: names tar::Header",
        ),
        (
            "use std::os::fd::RawFd; pub fn f(fd: RawFd) {}",
            "f: names std::os::fd::RawFd",
        ),
        (
            "pub fn f() -> std::os::fd::RawFd {}",
            "f: names std::os::fd::RawFd",
        ),
        ("pub unsafe fn f() {}", "f: is unsafe"),
        ("pub unsafe trait T {}", "T: is unsafe"),
        (
            "pub struct S; impl S { pub unsafe fn f() {} }",
            "S::f: is unsafe",
        ),
        (
            "pub struct S { pub digest: String }",
            "S.digest: is a digest as text",
        ),
        (
            "pub fn f(diff_ids: &[String]) {}",
            "f: has the digest diff_ids as text",
        ),
        (
            "pub fn f(config_digest: &str) {}",
            "f: has the digest config_digest as text",
        ),
        (
            "pub trait T { fn image_id(&self) -> Option<String>; }",
            "T: image_id gives a digest as text",
        ),
    ] {
        let found = violations_in(text);
        assert!(
            found.iter().any(|violation| violation.starts_with(want)),
            "{text}: want {want}, got {found:?}"
        );
    }
}

#[test]
fn good_signatures_pass() {
    for text in [
        "pub fn f(fd: std::os::fd::OwnedFd) { let _: nix::Error; }",
        "pub(crate) fn f() -> nix::Error {}",
        "use nix::Error as E; pub struct Error(E); fn f() -> E {} pub fn g() -> crate::Error {}",
        "mod tar { pub struct Header; } pub fn f() -> tar::Header {}",
        "pub struct S { inner: nix::Error, digest: String }",
        "struct S; impl From<nix::Error> for S {} pub fn digest(text: &str) -> Digest {}",
        "trait Local { fn f(x: nix::Error); } pub struct S; impl Local for S {}",
        "pub struct S; impl std::os::fd::AsRawFd for S { fn as_raw_fd(&self) -> std::os::fd::RawFd {} }",
        "#[cfg(test)] mod tests { pub fn f() -> nix::Error {} }",
        "use super::nix_like::Error; pub fn f() -> Error {}",
        "pub fn f(digest: &Digest, name: &str) -> String {}",
        "#[tokio::main] pub fn f() {}",
    ] {
        assert_eq!(violations_in(text), [""; 0], "{text}");
    }
}

fn violations_in(text: &str) -> Vec<String> {
    Crate::new([(Vec::new(), syn::parse_file(text).expect("Rust"))]).violations()
}

type Names = Vec<String>;

/// A crate's modules by their path.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Names, Module>,
    /// Files of modules that are compiled for tests only.
    test_modules: BTreeSet<Names>,
    public_types: BTreeSet<String>,
    private_traits: BTreeSet<String>,
}

#[derive(Default)]
struct Module {
    items: Vec<Item>,
    /// What a name that is imported, or is a type alias, stands for. A name may be imported as a type and as a module.
    names: BTreeMap<String, Vec<Names>>,
    /// Modules of which everything is imported.
    globs: Vec<Names>,
}

impl Crate {
    fn new(files: impl IntoIterator<Item = (Names, File)>) -> Self {
        let mut this = Self::default();
        for (path, file) in files {
            this.add_module(path, file.items);
        }
        let tests = std::mem::take(&mut this.test_modules);
        this.modules
            .retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        this
    }

    fn add_module(&mut self, path: Names, items: Vec<Item>) {
        let mut module = Module::default();
        for item in items {
            if let Item::Mod(inner) = item {
                let inner_path = joined(&path, &[inner.ident.to_string()]);
                if for_tests(&inner.attrs) {
                    self.test_modules.insert(inner_path);
                } else if let Some((_, items)) = inner.content {
                    self.add_module(inner_path, items);
                }
                continue;
            }
            match &item {
                Item::Use(import) => module.add_imports(&import.tree),
                Item::Type(alias) => {
                    module
                        .names
                        .entry(alias.ident.to_string())
                        .or_default()
                        .extend(paths_in(|v| v.visit_type(&alias.ty)));
                }
                _ => {}
            }
            let (ident, visibility, is_trait) = match &item {
                Item::Struct(item) => (&item.ident, &item.vis, false),
                Item::Enum(item) => (&item.ident, &item.vis, false),
                Item::Union(item) => (&item.ident, &item.vis, false),
                Item::Trait(item) => (&item.ident, &item.vis, true),
                _ => {
                    module.items.push(item);
                    continue;
                }
            };
            if is_public(visibility) {
                self.public_types.insert(ident.to_string());
            } else if is_trait {
                self.private_traits.insert(ident.to_string());
            }
            module.items.push(item);
        }
        self.modules.insert(path, module);
    }

    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        for (path, module) in &self.modules {
            let mut check = Check {
                krate: self,
                path,
                violations: &mut violations,
            };
            for glob in module
                .globs
                .iter()
                .filter(|glob| HIDDEN_CRATES.contains(&glob[0].as_str()))
            {
                check.violations.push(format!(
                    "import by name, for this check to see it: {}::*",
                    glob.join("::")
                ));
            }
            module.items.iter().for_each(|item| check.item(item));
        }
        violations
    }

    /// What `name`, as written in the module `from`, stands for: paths that start at `crate` or at another crate.
    fn resolve(&self, from: &[String], name: &[String], depth: usize) -> Vec<Names> {
        // Imports may go in a circle, as of a module and a function of one name.
        if depth > 16 {
            return vec![name.to_vec()];
        }
        match name[0].as_str() {
            "crate" => self.walk(&[], &name[1..], depth),
            "self" => self.walk(from, &name[1..], depth),
            "super" => self.walk(&from[..from.len().saturating_sub(1)], &name[1..], depth),
            _ => self
                .step(from, name, depth)
                .unwrap_or_else(|| vec![name.to_vec()]),
        }
    }

    /// Like `resolve`, for a name that is known to be in the module `from`.
    fn walk(&self, from: &[String], name: &[String], depth: usize) -> Vec<Names> {
        match name.first().map(String::as_str) {
            Some("super") => self.walk(&from[..from.len().saturating_sub(1)], &name[1..], depth),
            Some(_) => self
                .step(from, name, depth)
                .unwrap_or_else(|| vec![joined(&["crate".into()], &joined(from, name))]),
            None => Vec::new(),
        }
    }

    /// Goes from the module `from` into a module of its own, or along an import or alias, if `name` starts with one.
    fn step(&self, from: &[String], name: &[String], depth: usize) -> Option<Vec<Names>> {
        let inner = joined(from, &name[..1]);
        if self.modules.contains_key(&inner) {
            return Some(self.walk(&inner, &name[1..], depth + 1));
        }
        let targets = self.modules.get(from)?.names.get(&name[0])?;
        let others = targets.iter().filter(|target| target[..] != name[..1]);
        let resolved: Vec<_> = others
            .flat_map(|target| self.resolve(from, &joined(target, &name[1..]), depth + 1))
            .collect();
        if resolved.is_empty() {
            None
        } else {
            Some(resolved)
        }
    }
}

impl Module {
    fn add_imports(&mut self, tree: &UseTree) {
        for (name, target) in imports(tree, &[]) {
            match name {
                Some(name) => self.names.entry(name).or_default().push(target),
                None => self.globs.push(target),
            }
        }
    }
}

/// Looks at the items of one module.
struct Check<'a> {
    krate: &'a Crate,
    path: &'a [String],
    violations: &'a mut Vec<String>,
}

impl Check<'_> {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Fn(item) if is_public(&item.vis) => {
                self.function(&item.sig.ident.to_string(), &item.sig)
            }
            Item::Struct(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                self.names(&name, |visitor| visitor.visit_generics(&item.generics));
                self.fields(&name, &item.fields, is_public);
            }
            Item::Enum(item) if is_public(&item.vis) => {
                self.names(&item.ident.to_string(), |visitor| {
                    visitor.visit_generics(&item.generics)
                });
                for variant in &item.variants {
                    let name = format!("{}::{}", item.ident, variant.ident);
                    self.names(&name, |visitor| visitor.visit_fields(&variant.fields));
                    self.fields(&name, &variant.fields, |_| true);
                }
            }
            Item::Union(item) if is_public(&item.vis) => {
                self.names(&item.ident.to_string(), |visitor| {
                    visitor.visit_item_union(item)
                });
            }
            Item::Trait(item) if is_public(&item.vis) => {
                let name = item.ident.to_string();
                self.names(&name, |visitor| visitor.visit_item_trait(item));
                self.safe(&name, item.unsafety.is_none());
                for member in &item.items {
                    if let TraitItem::Fn(method) = member {
                        self.safe(&name, method.sig.unsafety.is_none());
                        self.digests(&name, &method.sig);
                    }
                }
            }
            Item::Type(item) if is_public(&item.vis) => {
                self.names(&item.ident.to_string(), |visitor| {
                    visitor.visit_item_type(item)
                });
            }
            Item::Const(item) if is_public(&item.vis) => {
                self.names(&item.ident.to_string(), |visitor| {
                    visitor.visit_type(&item.ty)
                });
            }
            Item::Static(item) if is_public(&item.vis) => {
                self.names(&item.ident.to_string(), |visitor| {
                    visitor.visit_type(&item.ty)
                });
            }
            Item::Use(item) if is_public(&item.vis) => {
                for (_, target) in imports(&item.tree, &[]) {
                    self.name("use", &target);
                }
            }
            Item::ExternCrate(item) if is_public(&item.vis) => {
                self.name("extern crate", &[item.ident.to_string()])
            }
            Item::Impl(item) if !for_tests(&item.attrs) => self.implementation(item),
            _ => {}
        }
    }

    /// The methods of a public type; or the header and the associated types of its implementation of a trait. The
    /// methods of that have their signatures from the trait.
    fn implementation(&mut self, item: &ItemImpl) {
        let Some(type_name) =
            last_name(&item.self_ty).filter(|name| self.krate.public_types.contains(name))
        else {
            return;
        };
        let Some((_, of, _)) = &item.trait_ else {
            self.names(&format!("impl {type_name}"), |visitor| {
                visitor.visit_generics(&item.generics);
                visitor.visit_type(&item.self_ty);
            });
            for member in &item.items {
                match member {
                    ImplItem::Fn(method) if is_public(&method.vis) => {
                        self.function(&format!("{type_name}::{}", method.sig.ident), &method.sig);
                    }
                    ImplItem::Const(constant) if is_public(&constant.vis) => {
                        self.names(&format!("{type_name}::{}", constant.ident), |visitor| {
                            visitor.visit_type(&constant.ty)
                        });
                    }
                    _ => {}
                }
            }
            return;
        };
        let trait_name = of
            .segments
            .last()
            .map(|segment| segment.ident.to_string())
            .unwrap_or_default();
        if self.krate.private_traits.contains(&trait_name) {
            return;
        }
        self.names(&format!("impl {trait_name} for {type_name}"), |visitor| {
            visitor.visit_generics(&item.generics);
            visitor.visit_path(of);
            visitor.visit_type(&item.self_ty);
            for member in &item.items {
                if let ImplItem::Type(associated) = member {
                    visitor.visit_type(&associated.ty);
                }
            }
        });
    }

    fn function(&mut self, name: &str, signature: &Signature) {
        self.names(name, |visitor| visitor.visit_signature(signature));
        self.safe(name, signature.unsafety.is_none());
        self.digests(name, signature);
    }

    fn fields(&mut self, owner: &str, fields: &Fields, public: impl Fn(&Visibility) -> bool) {
        for (index, field) in fields
            .iter()
            .enumerate()
            .filter(|(_, field)| public(&field.vis))
        {
            let name = field
                .ident
                .as_ref()
                .map_or_else(|| index.to_string(), ToString::to_string);
            let place = format!("{owner}.{name}");
            self.names(&place, |visitor| visitor.visit_type(&field.ty));
            if is_digest(&name) && is_text(&field.ty) {
                self.report(&place, "is a digest as text");
            }
        }
    }

    fn digests(&mut self, place: &str, signature: &Signature) {
        for input in &signature.inputs {
            let syn::FnArg::Typed(input) = input else {
                continue;
            };
            let syn::Pat::Ident(pattern) = &*input.pat else {
                continue;
            };
            let name = pattern.ident.to_string();
            if is_digest(&name) && is_text(&input.ty) {
                self.report(place, &format!("has the digest {name} as text"));
            }
        }
        let syn::ReturnType::Type(_, output) = &signature.output else {
            return;
        };
        if is_digest(&signature.ident.to_string()) && is_text(output) {
            self.report(
                place,
                &format!("{} gives a digest as text", signature.ident),
            );
        }
    }

    fn safe(&mut self, place: &str, safe: bool) {
        if !safe {
            self.report(place, "is unsafe");
        }
    }

    /// Checks all names in what `walk` shows to the visitor.
    fn names(&mut self, place: &str, walk: impl FnOnce(&mut Paths)) {
        for path in paths_in(walk) {
            self.name(place, &path);
        }
    }

    fn name(&mut self, place: &str, name: &[String]) {
        for path in self.krate.resolve(self.path, name, 0) {
            let hidden = HIDDEN_CRATES.contains(&path[0].as_str());
            if hidden || path.last().is_some_and(|last| last == "RawFd") {
                self.report(place, &format!("names {}", path.join("::")));
            }
        }
    }

    fn report(&mut self, place: &str, what: &str) {
        let module: String = self.path.iter().map(|name| format!("{name}::")).collect();
        self.violations.push(format!("{module}{place}: {what}"));
    }
}

/// Collects the paths in a piece of syntax, but not those in attributes, visibilities and bodies.
#[derive(Default)]
struct Paths(Vec<Names>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(
            path.segments
                .iter()
                .map(|segment| segment.ident.to_string())
                .collect(),
        );
        visit::visit_path(self, path);
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_block(&mut self, _: &'ast Block) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

fn paths_in(walk: impl FnOnce(&mut Paths)) -> Vec<Names> {
    let mut paths = Paths::default();
    walk(&mut paths);
    paths.0
}

/// The names that an import makes, with their targets; no name for everything in the target.
fn imports(tree: &UseTree, prefix: &[String]) -> Vec<(Option<String>, Names)> {
    let target = |name: String| {
        if name == "self" {
            prefix.to_vec()
        } else {
            joined(prefix, &[name])
        }
    };
    match tree {
        UseTree::Path(path) => imports(&path.tree, &joined(prefix, &[path.ident.to_string()])),
        UseTree::Group(group) => group
            .items
            .iter()
            .flat_map(|tree| imports(tree, prefix))
            .collect(),
        UseTree::Glob(_) => vec![(None, prefix.to_vec())],
        UseTree::Rename(rename) => vec![(
            Some(rename.rename.to_string()),
            target(rename.ident.to_string()),
        )],
        UseTree::Name(name) => {
            let target = target(name.ident.to_string());
            vec![(target.last().cloned(), target)]
        }
    }
}

fn joined(prefix: &[String], rest: &[String]) -> Names {
    prefix.iter().chain(rest).cloned().collect()
}

/// The path of the module in the file `path`, relative to the directory of the crate's root module.
fn module_path(path: &Path) -> Names {
    let mut names: Names = path
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.pop_if(|name| name == "mod" || name == "lib");
    names
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        attribute
            .parse_args::<syn::Ident>()
            .is_ok_and(|ident| ident == "test")
    };
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident("cfg") && is_test(attribute))
}

/// The name of a type without its path and arguments, references looked through.
fn last_name(of: &Type) -> Option<String> {
    match of {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string()),
        Type::Reference(reference) => last_name(&reference.elem),
        _ => None,
    }
}

fn is_digest(name: &str) -> bool {
    let name = name.strip_suffix('s').unwrap_or(name);
    DIGEST_NAMES.contains(&name) || name.ends_with("_digest")
}

/// True for strings, and for what holds them.
fn is_text(of: &Type) -> bool {
    paths_in(|visitor| visitor.visit_type(of))
        .iter()
        .any(|path| ["String", "str"].contains(&path[path.len() - 1].as_str()))
}
