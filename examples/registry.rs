//! A registry as a program: serves images of a directory, or of memory.
//!
//! ```text
//! cargo run --example registry -- --address 127.0.0.1:5000 --root /srv/images
//! cargo run --example registry -- --root /srv/images --self-signed registry.lan,192.168.1.7
//! cargo run --example registry -- --root /srv/images --tls cert.pem key.pem --htpasswd users
//! cargo run --example registry -- --root /srv/images --collect
//! ```
//!
//! `--self-signed` makes a certificate for these names and prints where it is: clients want it as
//! `/etc/docker/certs.d/NAME:PORT/ca.crt`. With `--htpasswd` only its users may do anything, and with
//! `--public PROJECT` besides, which may be repeated, everybody may pull from the project. `--collect` removes
//! what no manifest needs, and ends; also while another registry serves the directory.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use container_image::server::{
    Action, Authorizer, GarbageOptions, Htpasswd, Server, ServerOptions, ServerTls,
};

fn main() -> Result<()> {
    let mut options = ServerOptions::default();
    let mut public = Vec::new();
    let mut collects = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut next = || {
            arguments
                .next()
                .with_context(|| format!("{argument} wants a value"))
        };
        match argument.as_str() {
            "--address" => options.address = next()?.parse()?,
            "--root" => options.root = Some(next()?.into()),
            "--htpasswd" => {
                options.authenticator = Some(Arc::new(Htpasswd::open(Path::new(&next()?))?));
            }
            "--public" => public.push(next()?),
            "--tls" => {
                let (certificate, key) = (next()?, next()?);
                let tls = ServerTls::from_files(Path::new(&certificate), Path::new(&key))?;
                options.tls = Some(tls);
            }
            "--self-signed" => options.tls = Some(self_signed(&next()?)?),
            "--collect" => collects = true,
            _ => bail!("{argument} is not known; see the top of examples/registry.rs"),
        }
    }
    if options.authenticator.is_some() {
        options.authorizer = Some(Arc::new(Users { public }));
    }
    if collects {
        let garbage = Server::start(options)?.collect_garbage(&GarbageOptions::default())?;
        println!(
            "removed {} blobs, {} bytes",
            garbage.blobs.len(),
            garbage.size_bytes
        );
        return Ok(());
    }
    let server = Server::start(options)?;
    println!("serving on {}", server.address());
    loop {
        std::thread::park();
    }
}

/// Users may do everything, others may pull what is public.
#[derive(Debug)]
struct Users {
    public: Vec<String>,
}

impl Authorizer for Users {
    fn allows(&self, user: Option<&str>, repository: Option<&str>, action: Action) -> bool {
        let project = repository.and_then(|repository| repository.split('/').next());
        let is_public = project.is_some_and(|name| self.public.iter().any(|one| one == name));
        user.is_some() || is_public && action == Action::Pull
    }
}

/// Makes a certificate for `names`, which are separated by commas.
fn self_signed(names: &str) -> Result<ServerTls> {
    let names: Vec<_> = names.split(',').map(ToOwned::to_owned).collect();
    let made = rcgen::generate_simple_self_signed(names)?;
    let path = std::env::temp_dir().join(format!("registry-{}.crt", std::process::id()));
    fs::write(&path, made.cert.pem())?;
    println!("certificate in {}", path.display());
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    Ok(ServerTls::from_pem(certificate.as_bytes(), key.as_bytes())?)
}
