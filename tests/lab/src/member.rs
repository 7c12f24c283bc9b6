//! A member of the gossip that holds the token and says what it likes. It signs with an identity of its own, as it must.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use muster::core::{NodeId, ParametersHash, Phase, Secret};
use muster::founding::{Certificate, Parameters};
use muster::gossip::{
    Claim, Fitness, Gossip, GossipConfig, GossipKeys, Role, Signer, UdpNetwork, WantedRole,
};
use muster::identity::Marks;
use muster::identity::keys::ClusterKeys;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;

use crate::net::{GATEWAY, Net};
use crate::wire::{GOSSIP, on_switch};

/// How often what is to be said is looked for.
const EVERY: Duration = Duration::from_millis(50);

/// A member at the switch's address. Dropping it ends it.
#[derive(Debug)]
pub struct Member {
    /// Its identity.
    pub id: NodeId,
    /// Its address.
    pub address: IpAddr,
    say: Option<Sender<Claim>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Member {
    /// Joins the gossip of a cluster with its token, and greets these addresses.
    ///
    /// # Errors
    /// There is no identity to be had, or the switch's namespace cannot be entered.
    pub fn join(net: &Net, cluster: &str, token: &str, peers: Vec<SocketAddr>) -> Result<Self> {
        let address: IpAddr = GATEWAY.parse().context("the switch's address")?;
        let signer = Signer::new(key()?);
        let id = signer.node_id().clone();
        let keys = ClusterKeys::derive(cluster, &Secret::new(token.to_owned()));
        let config = GossipConfig {
            cluster: cluster.to_owned(),
            generation: 1,
            next_generation: Arc::new(|| Err("a liar's gossip is not started again".into())),
            listen: SocketAddr::new(address, GOSSIP),
            advertise: SocketAddr::new(address, GOSSIP),
            keys: GossipKeys::single(*keys.gossip.expose()),
            signer,
            interval: Duration::from_secs(1),
            network: Arc::new(UdpNetwork),
        };
        let (say, said) = channel();
        let (started, start) = channel();
        let net = net.clone();
        let run = move || on_switch(&net, move || speak(config, &peers, &said, &started));
        let mut member = Self { id, address, say: Some(say), thread: None };
        member.thread = Some(std::thread::spawn(run));
        if start.recv().is_err() {
            return Err(member.end().err().unwrap_or_else(|| anyhow!("the member's gossip did not start")));
        }
        Ok(member)
    }

    /// Publishes a claim.
    ///
    /// # Errors
    /// The gossip has ended.
    pub fn say(&self, claim: Claim) -> Result<()> {
        let say = self.say.as_ref().context("the member has ended")?;
        say.send(claim).map_err(|_| anyhow!("the member's gossip has ended"))
    }

    /// A claim of a server that votes, to be changed into whatever is to be said.
    #[must_use]
    pub fn claim(&self, counter: u64, parameters: ParametersHash, certificate: Certificate) -> Claim {
        Claim {
            v: 1,
            owner: self.id.clone(),
            generation: 1,
            counter,
            name: "liar".to_owned(),
            address: self.address,
            wants: WantedRole::Server,
            eligible: true,
            fitness: Fitness { class: 3 },
            parameters,
            era: certificate.era,
            register: None,
            proposal: None,
            certificate: Some(certificate.into()),
            annulment: None,
            recovery: None,
            fenced: false,
            phase: Phase::Serving,
            role: Role::Server,
            voter: Some(true),
            api: Some(true),
            ready: Some(true),
            zone: String::new(),
            marks: Marks::default(),
            why: "".into(),
        }
    }

    /// Ends the gossip.
    ///
    /// # Errors
    /// What went wrong in it.
    pub fn end(&mut self) -> Result<()> {
        self.say = None;
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow!("the member's thread failed"))?
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// A new identity.
fn key() -> Result<Ed25519KeyPair> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let document = document.map_err(|_| anyhow!("the kernel gave no random bytes for an identity"))?;
    Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| anyhow!("the member's key is damaged"))
}

/// Gossips until nobody can give it anything more to say.
fn speak(
    config: GossipConfig,
    peers: &[SocketAddr],
    said: &Receiver<Claim>,
    started: &Sender<()>,
) -> Result<()> {
    // One thread: sockets belong to the namespace of the thread that opens them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start a runtime")?.block_on(async {
        let gossip = Gossip::start(config).await.context("start the member's gossip")?;
        for peer in peers {
            gossip.meet(*peer);
        }
        if started.send(()).is_err() {
            return Ok(());
        }
        loop {
            match said.try_recv() {
                Ok(claim) => gossip.publish(&claim, &Parameters::default()).context("publish a claim")?,
                Err(TryRecvError::Empty) => tokio::time::sleep(EVERY).await,
                Err(TryRecvError::Disconnected) => break,
            }
        }
        gossip.shutdown().await;
        Ok(())
    })
}
